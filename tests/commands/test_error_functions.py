"""Tests of functions that map errors of the program to replies (``app.on_error``)."""

import logging
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import anyio
import pytest
from dishka import Provider, Scope, provide
from harness import Gate, app_with, dial, errors, talk
from serving import Serving
from timeouts import TIMEOUT
from websockets.exceptions import InvalidStatus

from websuckets import CommandGroup, ConnectionTasks, Limits, Message, Payload, Socket, WebSuckets
from websuckets.exc import ClientError, HandshakeRefused, NotAuthorized
from websuckets.middleware import CallNext, Outcome
from websuckets.security import CurrentUser
from websuckets.session import User
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio


class DomainError(Exception):
    """An error of a program."""


class NarrowError(DomainError):
    """A more specific error of a program."""


class Transaction: ...


class Broken: ...


class Journalling(Provider):
    """A provider of objects that record how they are finalised, and may fail then."""

    scope = Scope.REQUEST

    def __init__(self, journal: list[str], at_the_end: BaseException | None = None) -> None:
        super().__init__()
        self.journal = journal
        self.at_the_end = at_the_end

    @provide
    def transaction(self) -> Iterator[Transaction]:
        self.journal.append("begin")
        error = yield Transaction()
        self.journal.append("commit" if error is None else f"roll back {type(error).__name__}")
        if self.at_the_end is not None:
            raise self.at_the_end

    @provide
    def broken(self) -> Broken:
        raise NarrowError


def commands(raised: BaseException | None = None) -> CommandGroup:
    """Return commands that fail with this error, each in another place."""
    group = CommandGroup()
    error = DomainError("canary") if raised is None else raised

    @group.command("handler")
    async def handler(socket: Socket, *, transaction: Transaction) -> None:
        raise error

    @group.command("stream")
    async def stream(socket: Socket, *, transaction: Transaction) -> AsyncIterator[int]:
        yield 1
        raise error

    @group.command("guard", protected=False)
    async def dependency(socket: Socket, *, transaction: Transaction, broken: Broken) -> None: ...

    @group.command("commit")
    async def commit(socket: Socket, *, transaction: Transaction) -> str:
        return "not sent if the commit fails"

    @group.command("group")
    async def in_a_group(socket: Socket) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            raise error

    @group.command("several")
    async def several(socket: Socket) -> None:
        raise ExceptionGroup("several", [DomainError(), NarrowError()])

    @group.command("fine")
    async def fine(socket: Socket) -> str:
        return "fine"

    return group


@pytest.mark.parametrize("place", ["handler", "stream", "guard", "group"])
async def test_an_error_of_a_command_is_mapped_once_its_scope_was_rolled_back(
    place: str, serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the ClientError as the reply, and nothing in the log, whatever failed."""
    journal: list[str] = []
    app = app_with(commands(), providers=[Journalling(journal)])

    @app.on_error(DomainError)
    async def refuse(error: DomainError, *, transaction: Transaction, user: User) -> ClientError:
        journal.append("map")
        return ClientError("taken", {"by": type(error).__name__})

    async with serving(app) as server, dial(server) as client:
        reply = await client.call(place, id=7)
        if place == "stream":
            assert reply == {"event": "stream", "payload": 1, "id": 7, "more": True}
            reply = await client.receive()
        name = "NarrowError" if place == "guard" else "DomainError"
        assert reply == {"error": "taken", "details": {"by": name}, "id": 7}
        assert (await client.call("fine"))["payload"] == "fine"
    of_the_command = [] if place == "group" else ["begin", f"roll back {name}"]
    assert journal == [*of_the_command, "begin", "map", "commit"]
    assert not errors(caplog)


async def test_an_error_of_a_commit_is_mapped(caplog: pytest.LogCaptureFixture) -> None:
    """The error of a finaliser comes in a group of dishka's, and means what it is."""
    journal: list[str] = []
    app = app_with(commands(), providers=[Journalling(journal, NarrowError())])
    app.on_error(DomainError)(lambda error: ClientError(type(error).__name__))
    async with talk(app) as client:
        assert await client.call("commit") == {"error": "NarrowError", "details": None}
    assert journal == ["begin", "commit"]
    assert not errors(caplog)


async def test_an_error_is_mapped_though_a_finaliser_fails_after_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect the reply for the handler's error, and that of the finaliser in the log."""
    app = app_with(commands(), providers=[Journalling([], ValueError("of a finaliser"))])
    app.on_error(DomainError)(lambda error: ClientError("mapped"))
    async with talk(app) as client:
        assert (await client.call("handler"))["error"] == "mapped"
    (record,) = errors(caplog)
    assert "finalisers of 'handler' failed" in record.getMessage()


async def test_the_function_of_the_most_specific_class_maps_an_error() -> None:
    """Expect the order of the classes of the error, and not that of the functions."""
    group = CommandGroup()
    kinds = {"domain": DomainError, "narrow": NarrowError, "key": KeyError, "other": OSError}

    @group.command("fail")
    async def fail(socket: Socket, kind: Payload[str]) -> None:
        raise kinds[kind]

    app = app_with(group)
    app.on_error(Exception)(lambda error: ClientError("any"))
    app.on_error(DomainError)(lambda error: ClientError("domain"))
    app.on_error(LookupError)(lambda error: ClientError("lookup"))
    app.on_error(NarrowError)(lambda error: ClientError("narrow"))
    async with talk(app) as client:
        replies = [(await client.call("fail", payload=kind))["error"] for kind in kinds]
    assert replies == ["domain", "narrow", "lookup", "any"]


async def test_a_client_error_is_not_mapped() -> None:
    app = app_with(commands(NotAuthorized()), providers=[Journalling([])])
    app.on_error(Exception)(lambda error: ClientError("mapped"))
    async with talk(app) as client:
        assert (await client.call("handler"))["error"] == "not authorized"


async def test_a_group_of_several_errors_is_mapped_as_a_group(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = app_with(commands(), providers=[Journalling([])])
    app.on_error(DomainError)(lambda error: ClientError("one"))
    async with talk(app) as client:
        assert (await client.call("several"))["error"] == "internal error"
    assert len(errors(caplog)) == 1
    app.on_error(ExceptionGroup)(lambda error: ClientError(f"{len(error.exceptions)}"))
    async with talk(app) as client:
        assert (await client.call("several"))["error"] == "2"


async def test_an_error_of_the_program_that_is_not_an_exception_stays_an_incident(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class OwnError(BaseException): ...

    app = app_with(commands(OwnError()), providers=[Journalling([])])
    app.on_error(Exception)(lambda error: ClientError("mapped"))
    async with talk(app) as client:
        assert (await client.call("handler"))["error"] == "internal error"
    assert len(errors(caplog)) == 1


async def returns_none(error: Exception) -> None: ...


async def raises_it_again(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("function", [returns_none, raises_it_again])
async def test_a_function_may_leave_an_error_an_incident(
    function: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the error alone in the log, for ``None`` and for the error raised again."""
    app = app_with(commands(), providers=[Journalling([])])
    app.on_error(DomainError)(function)
    async with talk(app) as client:
        assert (await client.call("handler"))["error"] == "internal error"
    (record,) = errors(caplog)
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], DomainError)


def fails(error: DomainError) -> ClientError:
    raise ValueError("of the function")


def raises_a_reply(error: DomainError) -> ClientError:
    raise ClientError("raised rather than returned")


def returns_another(error: DomainError) -> Any:
    return "taken"


def is_not_encodable(error: DomainError) -> ClientError:
    return ClientError("taken", object())


async def is_not_built(error: DomainError, broken: Broken) -> ClientError:
    raise AssertionError("it was called")


async def hangs(error: DomainError) -> ClientError:
    await anyio.sleep_forever()
    raise AssertionError("it was not cancelled")


@pytest.mark.parametrize(
    ("function", "second"),
    [
        (fails, "ValueError: of the function"),
        (raises_a_reply, "ClientError: raised rather than returned"),
        (returns_another, "returns_another returned an object of type str; it returns a ClientErr"),
        (is_not_encodable, "PydanticSerializationError"),
        (is_not_built, "NarrowError"),
        (hangs, "hangs took more than 0.05 seconds"),
    ],
)
async def test_a_function_that_fails_makes_an_incident_of_both_errors(
    function: Any, second: str, serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(finalize_timeout=0.05)
    app = app_with(commands(), providers=[Journalling([])], limits=limits)
    app.on_error(DomainError)(function)
    async with serving(app) as server, dial(server) as client:
        reply = await client.call("handler")
        assert reply["error"] == "internal error"
        (record,) = errors(caplog)
        assert reply["details"]["incident"] in record.getMessage()
        assert "DomainError: canary" in caplog.text
        assert second in caplog.text
        assert (await client.call("fine"))["payload"] == "fine"


async def test_finalisers_that_took_too_long_are_an_incident(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Maybe they have not rolled back, so nothing is mapped."""

    async def slow() -> AsyncIterator[Transaction]:
        yield Transaction()
        await anyio.sleep_forever()

    provider = Provider(scope=Scope.REQUEST)
    provider.provide(slow)
    provider.provide(lambda: Broken(), provides=Broken)
    app = app_with(commands(), providers=[provider], limits=Limits(finalize_timeout=0.05))
    app.on_error(Exception)(lambda error: ClientError("mapped"))
    async with talk(app) as client:
        assert (await client.call("commit"))["error"] == "internal error"
    assert "finalisers took more than" in caplog.text


async def test_an_error_after_a_timeout_is_mapped() -> None:
    """Drivers of databases raise errors of their own when their caller is cancelled."""
    group = CommandGroup()

    @group.command("slow")
    async def slow(socket: Socket) -> None:
        try:
            await anyio.sleep(TIMEOUT)
        finally:
            raise DomainError

    app = app_with(group, limits=Limits(handler_timeout=0.05))

    @app.on_error(DomainError)
    async def refuse(error: DomainError) -> ClientError:
        await anyio.sleep(0)
        return ClientError("unavailable")

    async with talk(app) as client:
        assert (await client.call("slow"))["error"] == "unavailable"
        assert (await client.call("slow"))["error"] == "unavailable"


async def test_a_mapped_error_that_refuses_the_user_counts_as_a_failed_authentication() -> None:
    group = CommandGroup()

    @group.command("secret", protected=True)
    async def secret(socket: Socket) -> None: ...

    provider = Provider(scope=Scope.REQUEST)

    def current_user() -> CurrentUser:
        raise PermissionError

    provider.provide(current_user)
    app = app_with(group, providers=[provider], limits=Limits(auth_failures=2))
    app.on_error(PermissionError)(lambda error: NotAuthorized())
    async with talk(app) as client:
        assert (await client.call("secret"))["error"] == "not authorized"
        assert (await client.call("secret"))["error"] == "not authorized"
        assert (await client.closed())[0] == 4401


async def test_middleware_sees_the_reply_that_an_error_was_mapped_to() -> None:
    """Expect the ClientError in the outcome; errors of middleware itself are mapped, too."""
    outcomes: list[Outcome] = []

    async def watch(socket: Socket, message: Message, call_next: CallNext) -> Outcome:
        outcomes.append(await call_next())
        return outcomes[-1]

    async def fail(socket: Socket, message: Message, call_next: CallNext) -> Outcome:
        if message.event == "fine":
            raise NarrowError
        return await call_next()

    app = app_with(commands(), providers=[Journalling([])], middleware=[watch, fail])
    app.on_error(DomainError)(lambda error: ClientError(type(error).__name__))
    async with talk(app) as client:
        assert (await client.call("handler"))["error"] == "DomainError"
        assert (await client.call("fine"))["error"] == "NarrowError"
    assert [outcome.error for outcome in outcomes] == ["DomainError", "NarrowError"]
    assert all(isinstance(outcome.exception, ClientError) for outcome in outcomes)


async def test_the_log_tells_at_debug_which_error_became_a_reply(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect the class of the error, and neither its text nor its details."""
    caplog.set_level(logging.DEBUG, logger="websuckets")
    app = app_with(commands(), providers=[Journalling([])])
    app.on_error(DomainError)(lambda error: ClientError("taken", "canary"))
    async with talk(app) as client:
        await client.call("handler")
    assert "'handler': DomainError became a reply" in caplog.text
    assert "canary" not in caplog.text


async def test_an_error_of_a_connect_hook_is_mapped(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    journal: list[str] = []
    app = app_with(commands(), providers=[Journalling(journal)])

    @app.on_connect
    async def come(transaction: Transaction) -> None:
        raise DomainError

    @app.on_error(DomainError)
    async def refuse(error: DomainError, socket: Socket) -> ClientError:
        journal.append("map")
        return ClientError(f"not now, {type(socket.id).__name__}")

    async with serving(app) as server, dial(server) as client:
        assert await client.closed() == (1008, "not now, UUID")
    assert journal == ["begin", "roll back DomainError", "map"]
    assert not errors(caplog)


async def test_an_error_of_a_connect_hook_that_is_not_mapped_is_an_incident_of_both(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = app_with(commands(), providers=[Journalling([])])

    @app.on_connect
    async def come() -> None:
        raise DomainError("canary")

    app.on_error(DomainError)(fails)
    async with talk(app) as client:
        code, reason = await client.closed()
    assert code == 1011
    (record,) = errors(caplog)
    assert reason is not None and reason in record.getMessage()
    assert "DomainError: canary" in caplog.text and "ValueError: of the function" in caplog.text


async def test_an_error_of_a_handshake_hook_is_mapped(caplog: pytest.LogCaptureFixture) -> None:
    """Expect 403 with the name of the reply; a HandshakeRefused is a response by itself."""
    app = app_with(commands(), providers=[Journalling([])])
    raised: list[Exception] = [DomainError(), HandshakeRefused(418, "teapot"), OSError("x")]

    @app.on_handshake
    async def check() -> None:
        raise raised.pop(0)

    app.on_error(Exception)(
        lambda error: ClientError("no") if isinstance(error, DomainError) else None
    )
    for status, text in ((403, "no"), (418, "teapot"), (500, "incident ")):
        with pytest.raises(InvalidStatus) as refused:
            async with talk(app):
                raise AssertionError("it connected")
        response = refused.value.response
        assert (response.status_code, response.body.startswith(text.encode())) == (status, True)
    (record,) = errors(caplog)
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], OSError)


async def test_errors_that_nobody_waits_for_are_not_mapped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Tasks and ``on_disconnect`` hooks have no client to answer."""
    group, failed = CommandGroup(), Gate()

    @group.command("task")
    async def task(socket: Socket, *, tasks: ConnectionTasks) -> None:
        async def fail() -> None:
            await failed()
            raise DomainError

        tasks.start_soon(fail)

    app = app_with(group)

    @app.on_error(DomainError)
    def never(error: DomainError) -> ClientError:
        raise AssertionError("it was called")

    @app.on_disconnect
    async def leave() -> None:
        raise DomainError

    async with talk(app) as client:
        await client.call("task", id=1)
        await failed.reached.wait()
        failed.opened.set()
    assert ["DomainError" in str(record.exc_info) for record in errors(caplog)] == [True, True]


async def test_the_error_of_a_start_is_not_mapped() -> None:
    app = app_with(commands(), providers=[Journalling([])])
    app.on_error(DomainError)(lambda error: ClientError("mapped"))

    @app.on_startup
    async def fail() -> None:
        raise DomainError

    with pytest.raises(DomainError):
        async with talk(app):
            raise AssertionError("it started")


async def test_the_program_ends_where_a_function_ends_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect SystemExit at whoever runs the app, and the error in the log: nobody else gets it."""
    app = app_with(commands(), providers=[Journalling([])])

    @app.on_error(DomainError)
    def leave(error: DomainError) -> ClientError:
        raise SystemExit(3)

    with pytest.raises(BaseException) as ended:
        async with TestClient(app) as client:
            with pytest.raises((CommandError, Exception)):
                await client.call("handler")
    group = ended.value
    while isinstance(group, BaseExceptionGroup):
        (group,) = group.exceptions
    assert isinstance(group, SystemExit)
    assert "DomainError: canary" in caplog.text


class Mapper:
    """An object whose method maps errors."""

    def map(self, error: DomainError, *, user: User) -> ClientError:
        return ClientError(f"method {user.id}")

    async def __call__(self, error: DomainError) -> ClientError:
        return ClientError("object")


class Taken(ClientError):
    """A reply that is made of the error itself."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"class {type(error).__name__}")


def with_argument(text: str, error: DomainError) -> ClientError:
    return ClientError(text)


@pytest.mark.parametrize(
    ("function", "reply"),
    [
        (Mapper().map, "method None"),
        (Mapper(), "object"),
        (Taken, "class DomainError"),
        (partial(with_argument, "partial"), "partial"),
    ],
)
async def test_a_function_is_whatever_can_be_called_with_the_error(
    function: Any, reply: str
) -> None:
    app = app_with(commands(), providers=[Journalling([])])
    assert app.on_error(DomainError)(function) is function
    async with talk(app) as client:
        assert (await client.call("handler"))["error"] == reply


async def test_one_function_may_map_several_classes() -> None:
    app = app_with(commands(), providers=[Journalling([])])

    @app.on_error(KeyError)
    @app.on_error(DomainError)
    def refuse(error: KeyError | DomainError) -> ClientError:
        return ClientError("either")

    async with talk(app) as client:
        assert (await client.call("handler"))["error"] == "either"


def test_the_functions_are_part_of_the_graph() -> None:
    app = WebSuckets(providers=[Journalling([])])

    @app.on_error(DomainError)
    async def refuse(error: DomainError, transaction: Transaction) -> None: ...

    assert "refuse" in app.graph()
