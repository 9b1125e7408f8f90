"""Clients who may not connect are told by a close code, which browsers show, where one is given."""

import time
from collections.abc import AsyncIterator

import pytest
from harness import app_with, dial
from serving import Serving
from websockets.http11 import Request

from websuckets import CommandGroup, Socket, WebSuckets
from websuckets.exc import ConfigurationError, HandshakeRefused, NotAuthorized
from websuckets.security import CurrentUser, HandshakeSecurityProvider, Identity
from websuckets.session import Session
from websuckets.testing import TestClient

pytestmark = pytest.mark.anyio

ORIGINS = ["https://example.org", None]


async def by_header(request: Request) -> Identity | None:
    name = request.headers.get("X-Name")
    if name == "nobody":
        raise NotAuthorized
    return name and Identity(name, expires_at=time.time() - 1 if name == "old" else None)


@pytest.fixture
def journal() -> list[str]:
    return []


@pytest.fixture
def app(journal: list[str]) -> WebSuckets:
    group = CommandGroup()

    @group.command("whoami", protected=True)
    async def whoami(socket: Socket, *, user: CurrentUser) -> object:
        return user.id

    provider = HandshakeSecurityProvider(by_header, close_code=4401)
    app = app_with(group, providers=[provider], origins=ORIGINS)

    @app.on_connect
    async def connected() -> None:
        journal.append("connect")

    @app.on_disconnect
    async def disconnected() -> None:
        journal.append("disconnect")

    return app


@pytest.mark.parametrize("name", ["nobody", "old"])
async def test_a_client_who_is_not_authorised_gets_the_close_code_and_no_hook_runs(
    on_sockets: Serving, app: WebSuckets, journal: list[str], name: str
) -> None:
    async with on_sockets(app) as server:
        async with dial(server, additional_headers={"X-Name": name}) as client:
            assert await client.closed() == (4401, "not authorized")
        assert journal == []
        assert not Session.verified
        assert not Session.online
        async with dial(server, additional_headers={"X-Name": "ann"}) as client:
            assert (await client.call("whoami"))["payload"] == "ann"
        assert journal[:1] == ["connect"]


async def test_a_test_client_gets_the_close_code_too(app: WebSuckets) -> None:
    async with TestClient(app, headers={"X-Name": "nobody"}) as client:
        await client.wait_closed()
        assert (client.close_code, client.close_reason) == (4401, "not authorized")


async def test_a_hook_may_close_instead_of_refusing(on_sockets: Serving) -> None:
    app = app_with(CommandGroup())

    @app.on_handshake
    async def refuse() -> None:
        raise HandshakeRefused(403, "banned until Monday: " + "ä" * 200, close_code=4403)

    async with on_sockets(app) as server, dial(server) as client:
        code, reason = await client.closed()
        assert code == 4403
        assert reason is not None
        assert reason.startswith("banned until Monday: ää")
        assert len(reason.encode()) <= 123


@pytest.mark.parametrize("code", [1000, 2999, 5000, "4401", True])
def test_a_code_that_programs_may_not_send_is_refused(code: object) -> None:
    with pytest.raises(ValueError, match="codes of programs are 3000 to 4999"):
        HandshakeRefused(close_code=code)  # type: ignore[arg-type]


def test_a_wrong_code_of_a_provider_is_refused_when_it_is_made() -> None:
    with pytest.raises(ValueError, match="3000 to 4999"):
        HandshakeSecurityProvider(by_header, close_code=1008)


def test_a_function_that_yields_its_identity_cannot_have_a_close_code() -> None:
    async def yielding(request: Request) -> AsyncIterator[Identity | None]:
        yield None

    with pytest.raises(ConfigurationError, match="write an async function that returns"):
        HandshakeSecurityProvider(yielding, close_code=4401)
