"""Chaos: a short run with each kind of log finds no broken promise; see tests/chaos.py."""

import subprocess
import sys

import pytest
from postgres import find_binaries
from redis_server import find_binary
from repository import ROOT

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(300)]

MINUTES = 0.5


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
@pytest.mark.skipif(find_binary() is None, reason="redis-server is not installed")
@pytest.mark.skipif(find_binaries() is None, reason="PostgreSQL is not installed")
@pytest.mark.parametrize("log", ["sql", "redis"])
def test_no_promise_is_broken_while_everything_fails(log: str) -> None:
    command = [sys.executable, ROOT / "tests" / "chaos.py", "--seed=1", f"--minutes={MINUTES}"]
    done = subprocess.run([*command, f"--log={log}"], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout
    assert "0  violations" in done.stdout
