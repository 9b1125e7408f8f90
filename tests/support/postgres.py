"""A PostgreSQL server of the tests' own: on loopback, with a password, in a temporary directory."""

import os
import pwd
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGQUIT
from subprocess import PIPE, STDOUT
from tempfile import TemporaryDirectory
from typing import Any, Final

import psycopg
from ports import free_port
from psycopg import sql

TRIES, PAUSE = 600, 0.05  # 30 seconds

KEEP_NOTHING = ("fsync=off", "full_page_writes=off", "synchronous_commit=off")
LOOPBACK_ONLY = ("listen_addresses=127.0.0.1", "unix_socket_directories=")


CONNECTED: Final = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
"""The number of others who are connected to a database."""


@dataclass(frozen=True)
class Postgres:
    """A running server."""

    port: int
    password: str
    _empty: list[str] = field(default_factory=list, repr=False)

    def url(self, database: str) -> str:
        return f"postgresql://tests:{self.password}@127.0.0.1:{self.port}/{database}"

    @contextmanager
    def database(self) -> Iterator[str]:
        """Yield the URL of an empty database; at the end, nobody may be connected to it any more.

        Databases are emptied and used again: to create one takes eight times as long.
        """
        name = self._empty.pop() if self._empty else self._create()
        yield self.url(name)
        self._clear(name)
        self._empty.append(name)

    def _create(self) -> str:
        name = f"test_{secrets.token_hex(8)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return name

    def _clear(self, name: str) -> None:
        with psycopg.connect(self.url(name), autocommit=True) as connection:
            for _ in range(TRIES):
                row = connection.execute(CONNECTED).fetchone()
                if row == (0,):
                    break
                time.sleep(PAUSE)  # the server notices a little later that a client has left
            else:
                raise RuntimeError(f"a test has left connections to its database: {row}")
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")


def find_binaries() -> Path | None:
    """Return the directory of ``postgres`` and ``initdb``: Debian's newest, or that on PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    path = os.pathsep.join([*map(str, debian), os.environ["PATH"]])
    server = shutil.which("postgres", path=path)
    return Path(server).resolve().parent if server else None


@contextmanager
def running(binaries: Path) -> Iterator[Postgres]:
    """Run an empty server, which ends with the context, however the context ends."""
    with TemporaryDirectory(prefix="postgres-") as name:
        directory = Path(name)
        password = secrets.token_hex(16)
        options = run_in(directory)
        initialise(binaries / "initdb", directory, password, options)
        for _ in range(3):  # another program may take the port before the server does
            server = Postgres(free_port(), password)
            with started(binaries / "postgres", directory, server.port, options) as process:
                if accepts(server, process):
                    yield server
                    return
        raise RuntimeError(f"PostgreSQL does not start:\n{(directory / 'log').read_text()}")


def run_in(directory: Path) -> dict[str, Any]:
    """Return the arguments with which `subprocess` runs PostgreSQL, which refuses to be root."""
    if os.geteuid() != 0:
        return {"cwd": directory}
    nobody = pwd.getpwnam("nobody")
    os.chown(directory, nobody.pw_uid, nobody.pw_gid)
    return {
        "cwd": directory,
        "user": nobody.pw_uid,
        "group": nobody.pw_gid,
        "extra_groups": [],
    }


def initialise(initdb: Path, directory: Path, password: str, options: dict[str, Any]) -> None:
    password_file = directory / "password"
    password_file.write_text(password)
    password_file.chmod(0o644)  # inside a directory that only its owner can read
    arguments = ["data", "--username=tests", f"--pwfile={password_file}", "--auth=scram-sha-256"]
    arguments += ["--encoding=UTF8", "--no-locale", "--no-sync"]
    done = subprocess.run([initdb, *arguments], stdout=PIPE, stderr=STDOUT, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"PostgreSQL cannot be initialised:\n{done.stdout}")


@contextmanager
def started(
    postgres: Path, directory: Path, port: int, options: dict[str, Any]
) -> Iterator[subprocess.Popen[Any]]:
    """Run a process of the server, which with ``setpriv`` ends even if the tests are killed."""
    settings = [*KEEP_NOTHING, f"port={port}", *LOOPBACK_ONLY]
    command = [str(postgres), "-D", "data", *(f"--{setting}" for setting in settings)]
    if shutil.which("setpriv"):
        command = ["setpriv", "--pdeathsig", "QUIT", *command]
    with (
        (directory / "log").open("a") as log,
        subprocess.Popen(command, stdout=log, stderr=STDOUT, **options) as process,
    ):
        try:
            yield process
        finally:
            process.send_signal(SIGQUIT)  # at once, without saving anything


def accepts(server: Postgres, process: subprocess.Popen[Any]) -> bool:
    """Return whether the server accepts connections before it exits."""
    for _ in range(TRIES):
        if process.poll() is not None:
            return False
        try:
            psycopg.connect(server.url("postgres"), connect_timeout=5).close()
            return True
        except psycopg.OperationalError:
            time.sleep(PAUSE)  # the server does not announce that it is ready
    raise TimeoutError("PostgreSQL takes too long to start")
