"""Tests of commands that fail: the reply, the log, and how each scope is closed."""

import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from dishka import Provider, Scope
from failing_commands import Journalling, Outer, commands, incident_of
from harness import app_with, dial, errors, talk
from websockets.asyncio.server import ServerConnection

from websuckets import CommandGroup, WebSuckets
from websuckets.exc import ClientError

pytestmark = pytest.mark.anyio


def journalled(journal: list[str], closing_error: Exception | None = None) -> WebSuckets:
    return app_with(commands(journal), providers=[Journalling(journal, closing_error)])


BUILT = ["open app", "open session", "open outer", "open inner"]


async def test_scopes_open_once_and_close_in_reverse(journal: list[str]) -> None:
    """Expect REQUEST per message, SESSION per connection, APP per run; closed before the reply."""
    async with talk(journalled(journal)) as client:
        await client.call("fine")
        assert journal == [*BUILT, "handler", "close inner", "close outer"]
        journal.clear()
        await client.call("fine")
        assert journal == ["open outer", "open inner", "handler", "close inner", "close outer"]
        async with client.another() as other:
            journal.clear()
            await other.call("fine")
            assert journal[:2] == ["open session", "open outer"]
        journal.clear()
    assert sorted(journal) == ["close app", "close session", "close session"]
    assert journal[-1] == "close app"


@pytest.mark.parametrize(
    ("event", "payload", "logged", "after_inner"),
    [
        ("raise", None, "handler canary", "RuntimeError"),
        ("broken provider", None, "provider canary", "RuntimeError"),
        ("validate", {"value": "bug"}, "validator canary", "KeyError"),
        ("unserialisable", None, "Unserialisable", "PydanticSerializationError"),
        ("circular", None, "Circular reference", "PydanticSerializationError"),
    ],
)
async def test_a_bug_is_an_incident_and_rolls_back(
    journal: list[str],
    caplog: pytest.LogCaptureFixture,
    event: str,
    payload: Any,
    logged: str,
    after_inner: str,
) -> None:
    """Expect the incident's id alone at the client; the log has the id with the traceback."""
    async with talk(journalled(journal)) as client:
        reply = await client.call(event, payload=payload, id=1)
        incident = incident_of(reply)
        assert reply["id"] == 1
        opened = [line for line in journal if line != "handler"]
        assert opened == [
            *BUILT,
            f"close inner with {after_inner}",
            f"close outer with {after_inner}",
        ]
        (record,) = errors(caplog)
        assert incident in record.getMessage()
        assert record.exc_info is not None
        assert logged in caplog.text
        assert "canary" not in record.getMessage()
        assert ("while encoding what" in caplog.text) == (event in ("unserialisable", "circular"))
        assert (await client.call("fine"))["payload"] == "fine"


@pytest.mark.parametrize(
    ("event", "payload", "reply"),
    [
        ("raise for client", None, {"error": "no", "details": {"because": 1}}),
        ("refuse", None, {"error": "not authorized", "details": None}),
        ("validate", {"value": "refused"}, {"error": "refused by the validator", "details": None}),
        (
            "validate",
            {"value": "x"},
            {
                "error": "validation error",
                "details": [
                    {
                        "loc": ["value"],
                        "msg": "Value error, this text is for the client",
                        "type": "value_error",
                    }
                ],
            },
        ),
        ("validate", None, {"error": "payload required", "details": None}),
    ],
)
async def test_an_error_for_the_client_is_not_an_incident_but_rolls_back(
    journal: list[str],
    caplog: pytest.LogCaptureFixture,
    event: str,
    payload: Any,
    reply: dict[str, Any],
) -> None:
    """Expect the client and the finalisers to get the error as it is, and none in the log."""
    caplog.set_level(logging.INFO, logger="websuckets")
    async with talk(journalled(journal)) as client:
        assert await client.call(event, payload=payload) == reply
        name = "NotAuthorized" if event == "refuse" else "ClientError"
        assert journal == [*BUILT, f"close inner with {name}", f"close outer with {name}"]
        assert not errors(caplog)
        refusals = [r for r in caplog.records if "not authorized" in r.getMessage()]
        assert [r.levelno for r in refusals] == ([logging.INFO] if event == "refuse" else [])


async def test_a_finaliser_that_fails_turns_success_into_an_error(
    journal: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the result not to be sent; the other finalisers run nevertheless."""
    async with talk(journalled(journal, RuntimeError("finaliser canary"))) as client:
        incident = incident_of(await client.call("closing"))
        others = ["close inner with RuntimeError", "close outer with RuntimeError"]
        assert journal == [*BUILT, "close closing", *others]
        (record,) = errors(caplog)
        assert incident in record.getMessage()
        assert "finaliser canary" in caplog.text


async def test_a_finaliser_may_refuse_with_an_error_for_the_client(journal: list[str]) -> None:
    """Expect a ClientError of a commit that fails at the client."""
    async with talk(journalled(journal, ClientError("conflict", 409))) as client:
        assert await client.call("closing", id=1) == {"error": "conflict", "details": 409, "id": 1}


@pytest.mark.parametrize("event", ["raise, closing", "crash, closing"])
async def test_the_handlers_error_wins_over_that_of_a_finaliser(
    journal: list[str], caplog: pytest.LogCaptureFixture, event: str
) -> None:
    """Expect a finaliser's error in the log, under the incident of the handler's, if any."""
    async with talk(journalled(journal, RuntimeError("finaliser canary"))) as client:
        reply = await client.call(event)
        assert "finaliser canary" in caplog.text
        if event == "raise, closing":
            assert reply == {"error": "no", "details": {"because": 1}}
            assert len(errors(caplog)) == 1
        else:
            incident = incident_of(reply)
            messages = [record.getMessage() for record in errors(caplog)]
            assert len(messages) == 2
            assert all(incident in message for message in messages)


async def test_a_finaliser_that_raises_the_handlers_error_again_is_not_a_second_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect `error = yield; raise error` not to log the error twice."""
    group = CommandGroup()

    @group.command("raise")
    async def raise_(socket: ServerConnection, *, thing: Outer) -> None:
        raise ClientError("once")

    async def reraising() -> AsyncIterator[Outer]:
        error = yield Outer()
        if error is not None:
            raise error

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(reraising)
    async with talk(app_with(group, providers=[provider])) as client:
        assert await client.call("raise") == {"error": "once", "details": None}
        assert not errors(caplog)


async def test_a_finaliser_of_the_connection_that_fails_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect an error in the log, as no client is left; the server goes on."""
    group = CommandGroup()

    @group.command("use")
    async def use(socket: ServerConnection, *, thing: Outer) -> str:
        return "used"

    def failing() -> Iterator[Outer]:
        yield Outer()
        raise RuntimeError("session canary")

    provider = Provider(scope=Scope.SESSION)
    provider.provide(failing)
    app = app_with(group, providers=[provider])
    async with app.serve("127.0.0.1", 0) as server:
        async with dial(server) as client:
            await client.call("use")
        async with dial(server) as client:
            await client.call("use")
    assert len(errors(caplog)) == 2
    assert "session canary" in caplog.text


async def test_a_finaliser_of_the_app_that_fails_reaches_whoever_runs_it() -> None:
    """Expect the context manager to raise the error at its end."""
    group = CommandGroup()

    @group.command("use")
    async def use(socket: ServerConnection, *, thing: Outer) -> str:
        return "used"

    def failing() -> Iterator[Outer]:
        yield Outer()
        raise RuntimeError("app canary")

    provider = Provider(scope=Scope.APP)
    provider.provide(failing)
    with pytest.RaisesGroup(RuntimeError):
        async with talk(app_with(group, providers=[provider])) as client:
            await client.call("use")
