"""Chaos: short runs with each kind of log and of clients find no broken promise; see chaos.py."""

import subprocess
import sys

import pytest
from chaos_clients import KINDS
from postgres import find_binaries
from redis_server import find_binary
from repository import ROOT
from typescript_package import built

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc"),
    pytest.mark.skipif(find_binary() is None, reason="redis-server is not installed"),
    pytest.mark.skipif(find_binaries() is None, reason="PostgreSQL is not installed"),
]


def row_of_a_run(*options: str) -> dict[str, str]:
    """Run the program; return the row of its table by the columns. Raises `AssertionError`."""
    command = [sys.executable, str(ROOT / "tests" / "chaos.py"), "--seed=1", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout
    head, _, row = (line.strip("| ").split(" | ") for line in done.stdout.splitlines()[-3:])
    return dict(zip(head, row, strict=True))


@pytest.mark.parametrize("log", ["sql", "redis"])
def test_no_promise_is_broken_while_everything_fails(log: str) -> None:
    row = row_of_a_run("--minutes=0.5", f"--log={log}")
    assert row["violations"] == "0"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "python"])
def test_no_promise_is_broken_to_clients_of_another_kind(
    kind: str, pytestconfig: pytest.Config
) -> None:
    options = ["--minutes=0.2", f"--client={kind}"]
    if kind == "typescript":
        options.append(f"--package={built(pytestconfig).folder}")
    row = row_of_a_run(*options)
    assert row["violations"] == "0"
    assert "0" not in (row["acknowledged"], row["events"])
