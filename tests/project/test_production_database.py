"""The database on the page about production: migrations, one at a time, and readiness."""

import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import copy, copytree, which
from signal import SIGTERM
from subprocess import run
from typing import Any

import anyio
import pages
import psycopg
import pytest
import yaml
from harness import connect
from ports import free_port
from postgres import Postgres
from recipes import FILES, Recipe, line
from run_command import LONG, RunningProgram, ask
from sqlalchemy import create_engine, inspect

from websuckets import Limits

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.on_asyncio,
    pytest.mark.skipif(sys.platform == "win32", reason="its lines are for a shell of Unix"),
]

START = line("alembic upgrade head && exec ")
"""Line that migrates and starts the app."""

CREATES = """
from sqlalchemy.ext.asyncio import AsyncEngine

from database import Table
from notes import app


@app.on_startup
async def create(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Table.metadata.create_all)
"""
"""A program without migrations, whose start creates the tables."""

WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yield the URL of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'notes.db'}"
    else:
        with request.getfixturevalue("postgres_server").database() as url:
            yield with_driver(url)


@pytest.fixture
def postgresql(postgres_server: Postgres) -> Iterator[str]:
    """Yield the URL of an empty database of PostgreSQL."""
    with postgres_server.database() as url:
        yield url


def with_driver(url: str) -> str:
    """Return the URL for SQLAlchemy of a database that psycopg opens by the URL."""
    return url.replace("postgresql:", "postgresql+psycopg:")


def tables(url: str) -> set[str]:
    """Return the names of the tables in a database."""
    engine = create_engine(url.replace("+aiosqlite", ""))
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


@pytest.fixture(scope="module")
def with_migration(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A project of the page, with its first migration."""
    recipe = Recipe(tmp_path_factory.mktemp("project"), "database.py", "notes.py")
    recipe.run(line("alembic init"))
    recipe.write("migrations/env.py", FILES["migrations/env.py"])
    recipe.run(line("alembic revision --autogenerate"))
    return recipe


@pytest.fixture
def recipe(tmp_path: Path, with_migration: Recipe) -> Recipe:
    """A copy of the project, which has no database yet."""
    recipe = Recipe(tmp_path, "database.py", "notes.py")
    copytree(with_migration.directory / "migrations", tmp_path / "migrations")
    copy(with_migration.directory / "alembic.ini", tmp_path)
    return recipe


def break_next_migration(recipe: Recipe) -> None:
    """Add a migration that creates a table, and then fails."""
    recipe.run('alembic revision -m "broken"')
    (path,) = (recipe.directory / "migrations" / "versions").glob("*_broken.py")
    text = path.read_text()
    create = 'op.create_table("other", sa.Column("id", sa.Integer()))'
    broken = f'{create}\n    op.execute("SELECT * FROM missing")\n'
    path.write_text(text.replace("pass\n", broken, 1))


async def until_waiting(url: str, number: int) -> None:
    """Wait until so many connections to a database of PostgreSQL wait for a lock."""
    with psycopg.connect(url, autocommit=True) as observer, anyio.fail_after(LONG):
        while observer.execute(WAITING).fetchone() != (number,):
            await anyio.sleep(0.01)


async def add_a_note(program: RunningProgram) -> int:
    """Add a note, and return its number."""
    async with connect(await program.url()) as client:
        number: int = await ask(client, "note add", "hello")
        return number


async def stop(*programs: RunningProgram) -> None:
    """Stop programs, and expect no error of theirs."""
    for program in programs:
        program.signal(SIGTERM)
        assert await program.ended() == 0
        assert "ERROR" not in program.log


@pytest.mark.heavy
@pytest.mark.timeout(300)
async def test_programs_that_start_together_migrate_one_after_the_other(
    recipe: Recipe, url: str
) -> None:
    async with (
        recipe.running(f"{START} --port {free_port()}", DATABASE_URL=url) as one,
        recipe.running(f"{START} --port {free_port()}", DATABASE_URL=url) as other,
    ):
        for program in (one, other):
            await program.url()  # each step may take long on a machine that does much else
            await program.until("workers: 2")
        assert sorted([await add_a_note(one), await add_a_note(other)]) == [1, 2]
        await stop(one, other)
    assert tables(url) == {"notes", "alembic_version"}


@pytest.mark.heavy
@pytest.mark.timeout(300)
async def test_migrations_on_postgresql_wait_for_the_lock_of_the_page(
    recipe: Recipe, postgresql: str
) -> None:
    url = with_driver(postgresql)
    with psycopg.connect(postgresql) as other:
        lock = FILES["migrations/env.py"].partition('"postgresql": "')[2].partition('"')[0]
        other.execute(lock)  # type: ignore[arg-type]
        async with (
            recipe.running(f"{START} --port {free_port()}", DATABASE_URL=url) as one,
            recipe.running(f"{START} --port {free_port()}", DATABASE_URL=url) as two,
        ):
            await until_waiting(postgresql, 2)
            assert tables(url) == set()
            other.commit()
            assert sorted([await add_a_note(one), await add_a_note(two)]) == [1, 2]
            await stop(one, two)
    with psycopg.connect(postgresql) as observer:
        assert observer.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)


async def test_a_migration_that_fails_leaves_the_database_as_it_was_and_starts_nothing(
    recipe: Recipe, url: str
) -> None:
    break_next_migration(recipe)
    async with recipe.running(f"{START} --port {recipe.port}", DATABASE_URL=url) as program:
        assert await program.ended() == 1
    assert "missing" in program.log
    assert "listening on" not in program.log
    assert tables(url) == set()


async def test_programs_that_create_the_tables_at_the_same_time_do_not_all_start(
    recipe: Recipe, postgresql: str
) -> None:
    """Another transaction holds up both after they have looked for the table."""
    recipe.write("creates.py", CREATES)
    create = "websuckets run creates:app --port"
    url = with_driver(postgresql)
    async with (
        recipe.running(f"{create} {free_port()}", DATABASE_URL=url) as one,
        recipe.running(f"{create} {free_port()}", DATABASE_URL=url) as other,
    ):
        with psycopg.connect(postgresql) as holder:
            holder.execute("CREATE TABLE notes (id integer)")
            await until_waiting(postgresql, 2)
            holder.rollback()
        ended = await first_to_end(one, other)
        assert await ended.ended() == 1
        assert "UniqueViolation" in ended.log or "DuplicateTable" in ended.log
        started = other if ended is one else one
        assert await add_a_note(started) == 1
        await stop(started)


async def first_to_end(*programs: RunningProgram) -> RunningProgram:
    """Wait until one of the programs has ended, and return that program."""
    found: list[RunningProgram] = []
    async with anyio.create_task_group() as tasks:

        async def wait(program: RunningProgram) -> None:
            await program.ended()
            found.append(program)
            tasks.cancel_scope.cancel()

        for program in programs:
            tasks.start_soon(wait, program)
    return found[0]


def test_create_all_changes_no_table_that_is_there(tmp_path: Path) -> None:
    Recipe(tmp_path, "database.py")
    program = """
from sqlalchemy import create_engine, inspect
from database import Table
engine = create_engine("sqlite:///old.db")
with engine.begin() as connection:
    connection.exec_driver_sql("CREATE TABLE notes (id integer)")
    Table.metadata.create_all(connection)
    assert [column["name"] for column in inspect(connection).get_columns("notes")] == ["id"]
"""
    run([sys.executable, "-c", program], cwd=tmp_path, check=True)


# Readiness


@pytest.mark.skipif(which("curl") is None, reason="curl is not installed")
async def test_the_app_is_ready_when_its_tables_are_there(recipe: Recipe, url: str) -> None:
    wait = line("until curl") + " && exec true"
    async with recipe.running("websuckets run notes:app --port 8000", DATABASE_URL=url) as program:
        await program.url()
        assert await recipe.health(recipe.http) == 503
        async with recipe.running(wait) as script:
            with anyio.move_on_after(0.5) as waits:
                await script.ended()
            assert waits.cancelled_caught
            recipe.run("alembic upgrade head", DATABASE_URL=url)
            assert await recipe.health(recipe.http) == 200
            assert await script.ended() == 0
        program.signal(SIGTERM)
        assert await program.ended() == 0


async def test_the_app_is_not_ready_while_the_database_is_away(recipe: Recipe) -> None:
    url = f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/none"
    async with recipe.running("websuckets run notes:app --port 8000", DATABASE_URL=url) as program:
        await program.url()
        assert await recipe.health(recipe.http) == 503


async def test_the_pod_runs_and_is_asked_where_the_app_answers(recipe: Recipe) -> None:
    spec: Any = yaml.safe_load(FILES["pod.yaml"])["spec"]
    (container,) = spec["containers"]
    probe = container["readinessProbe"]
    assert probe["httpGet"] == {"path": "/health", "port": 8000}
    shell, option, command = container["command"]
    assert (shell, option) == ("sh", "-c")
    command = command.replace("0.0.0.0", "127.0.0.1")  # the test is for this machine alone
    async with recipe.running(f"{command} --port {recipe.http}") as program:
        await program.url()
        assert await recipe.health(recipe.http) == 200
        await stop(program)


def test_the_pod_has_time_to_answer_and_to_stop() -> None:
    spec: Any = yaml.safe_load(FILES["pod.yaml"])["spec"]
    limits = Limits()
    assert limits.drain_timeout is not None and limits.finalize_timeout is not None
    assert limits.ready_timeout is not None
    longest = limits.drain_timeout + 8 * limits.finalize_timeout  # as docs/serving.md says
    assert spec["terminationGracePeriodSeconds"] > longest
    assert spec["containers"][0]["readinessProbe"]["timeoutSeconds"] > limits.ready_timeout
    assert "livenessProbe" not in spec["containers"][0]
    assert "livenessProbe" in pages.prose(pages.PRODUCTION)
