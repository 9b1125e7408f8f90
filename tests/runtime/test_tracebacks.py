"""Tracebacks in the log begin at code of the program."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from dishka import AsyncContainer, Provider, Scope, provide
from harness import app_with, errors
from programs import hello_group

from websuckets import CommandGroup, Limits, Socket
from websuckets.exc import ConfigurationError
from websuckets.runtime.tracebacks import begun_at_the_program, leave_out_our_frames
from websuckets.security import CurrentUser
from websuckets.session import User
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio


class Thing:
    def __init__(self, other: "Other") -> None: ...


class Other:
    def __init__(self, thing: Thing) -> None: ...


def frames(traceback: Any) -> list[str]:
    """Return the names of the functions in a traceback."""
    names = []
    while traceback is not None:
        names.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    return names


async def test_the_traceback_of_an_incident_begins_at_the_handler(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Expect neither frames of the framework nor those of generated functions above it."""
    group = CommandGroup()

    @group.command("handler")
    async def handler(socket: Socket) -> None:
        raise RuntimeError("canary")

    @group.command("provider")
    async def with_provider(socket: Socket, *, number: float) -> None: ...

    class Numbers(Provider):
        @provide(scope=Scope.REQUEST)
        def number(self) -> float:
            return 1 / 0

    async with TestClient(app_with(group, providers=[Numbers()])) as client:
        for name in ("handler", "provider"):
            with pytest.raises(CommandError, match="internal error"):
                await client.call(name)
    first, second = errors(caplog)
    assert first.exc_info is not None and second.exc_info is not None
    assert frames(first.exc_info[2]) == ["handler"]
    assert frames(second.exc_info[2]) == ["number"]


def test_a_traceback_without_code_of_the_program_stays_as_it_is() -> None:
    """Expect the whole traceback of a bug, and none of an error whose text names the place."""
    with pytest.raises(ValueError) as caught:
        Limits(rate="x")  # type: ignore[arg-type]  # the mistake
    error = caught.value
    assert error.__traceback__ is not None
    whole = error.__traceback__.tb_next  # without the frame of this test
    assert begun_at_the_program(whole) is whole
    assert begun_at_the_program(None) is None
    leave_out_our_frames(error.with_traceback(whole))
    assert error.__traceback__ is whole
    told = ConfigurationError("no").with_traceback(whole)
    leave_out_our_frames(told)
    assert told.__traceback__ is None


@pytest.mark.parametrize("asks_for_the_container", [True, False])
@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_user_that_nobody_has_verified_does_not_pass(
    asks_for_the_container: bool, is_stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect an internal error where a provider of `CurrentUser` returns the `User`."""
    group, ran = CommandGroup(protected=True), []

    class Wrong(Provider):
        @provide(scope=Scope.REQUEST)
        def current_user(self, user: User) -> CurrentUser:
            return user  # type: ignore[return-value]  # the mistake

    if asks_for_the_container:

        @group.command("run")
        async def with_container(socket: Socket, *, container: AsyncContainer) -> None:
            ran.append(1)

    elif is_stream:

        @group.command("run")
        async def stream(socket: Socket) -> AsyncIterator[int]:
            ran.append(1)
            yield 1

    else:

        @group.command("run")
        async def run(socket: Socket) -> None:
            ran.append(1)

    async with TestClient(app_with(group, providers=[Wrong()])) as client:
        with pytest.raises(CommandError, match="internal error"):
            await client.call("run")
    assert ran == []
    assert "return CurrentUser(user), or raise NotAuthorized" in caplog.text


async def test_the_right_user_passes_also_by_a_container() -> None:
    """Expect no error where a provider of the program's own makes a `CurrentUser`."""
    group = CommandGroup(protected=True)

    class Right(Provider):
        @provide(scope=Scope.REQUEST)
        def current_user(self, user: User) -> CurrentUser:
            return CurrentUser(user)

    @group.command("run")
    async def run(socket: Socket, *, container: AsyncContainer, user: CurrentUser) -> bool:
        return await container.get(CurrentUser) is user

    async with TestClient(app_with(group, providers=[Right()])) as client:
        assert (await client.call("run")).payload is True


async def test_a_circle_of_providers_is_told_with_places() -> None:
    """Expect the place of each constructor, or of each function."""

    class Things(Provider):
        scope = Scope.REQUEST
        thing = provide(Thing)

        @provide
        def other(self, thing: Thing) -> Other:
            return Other(thing)

    with pytest.raises(Exception, match="Cycle") as caught:
        async with TestClient(app_with(hello_group(), providers=[Things()])):
            pass
    [note] = caught.value.__notes__
    assert f"({__file__}, line {Thing.__init__.__code__.co_firstlineno})" in note
    assert ".other` (" in note


def test_a_limit_that_there_is_not_is_refused_by_its_name() -> None:
    """Expect no nearest name where none is near."""
    with pytest.raises(TypeError, match=r"Limits\(xyz=...\): there is no such limit$"):
        Limits(xyz=1)  # type: ignore[call-arg]  # the mistake


async def test_an_option_that_the_server_does_not_have_is_refused() -> None:
    """Expect the error of the server, with a note that says which options there are."""
    with pytest.raises(TypeError) as caught:
        async with app_with(hello_group()).serve("127.0.0.1", 0, reload=True):
            pass
    assert "the options of app.serve()" in caught.value.__notes__[0]
