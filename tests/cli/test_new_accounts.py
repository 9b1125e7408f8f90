"""The accounts of a project that `websuckets new` writes: who logs in delays nobody else."""

from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path

import anyio
import pytest
from argon2 import PasswordHasher
from command_line import Project
from held_hashing import held_hashing
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from timeouts import TIMEOUT

from websuckets import WebSuckets
from websuckets.cli.new import create_project
from websuckets.testing import TestClient

pytestmark = [pytest.mark.anyio, pytest.mark.on_asyncio]

ANN = {"login": "ann", "password": "correct horse"}


@pytest.fixture
def app(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WebSuckets:
    """Return the app of a new project, in this process."""
    monkeypatch.syspath_prepend(create_project("help-desk", tmp_path))
    app = import_module("help_desk.main").app
    assert isinstance(app, WebSuckets)
    return app


@pytest.fixture
async def client(app: WebSuckets, tmp_path: Path) -> AsyncIterator[TestClient]:
    """Yield a client of the app, whose pool has one connection to the database."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'desk.db'}"
    engine = create_async_engine(url, pool_size=1, max_overflow=0)
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    with app.override(values={AsyncEngine: engine, PasswordHasher: cheap}):
        async with TestClient(app) as client:
            yield client
    await engine.dispose()


@pytest.mark.parametrize(
    ("command", "credentials", "is_refused"),
    [
        ("log in", {**ANN, "login": "nobody"}, True),
        ("log in", {**ANN, "password": "battery staple"}, True),
        ("log in", ANN, False),
        ("sign up", {**ANN, "login": "bob"}, False),
    ],
    ids=["nobody", "wrong password", "right password", "sign up"],
)
async def test_the_database_serves_others_while_a_password_is_hashed(
    client: TestClient, command: str, credentials: dict[str, str], is_refused: bool
) -> None:
    await client.call("account sign up", ANN)
    token = (await client.call("account log in", ANN)).payload
    async with client.connect() as other:
        with held_hashing() as began:
            await other.send(f"account {command}", credentials, id=1)
            with anyio.fail_after(TIMEOUT):
                await began.wait()
            assert (await client.call("account me", token=token)).payload["login"] == "ann"
        assert ('"error":"wrong login' in str(await other.receive_frame())) == is_refused
