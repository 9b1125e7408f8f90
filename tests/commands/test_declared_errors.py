"""Errors that commands declare: `raises=[...]`, with names and types of details."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from harness import app_with, dial, errors
from pydantic import BaseModel, Field
from serving import Serving
from typing_extensions import TypedDict

from websuckets import ClientError, CommandGroup, Socket
from websuckets.exc import (
    CommandTimeout,
    ConfigurationError,
    Expired,
    Forbidden,
    InvalidChannel,
    NotAuthorized,
    TooManySubscriptions,
    Unavailable,
)
from websuckets.testing import CommandError, TestClient

pytestmark = pytest.mark.anyio


class Free(BaseModel):
    nicknames: list[str] = Field(alias="free")


class NicknameTaken(ClientError):
    details: Free


class TooLong(ClientError):
    error = "nickname too long"
    details: int | None


class Plain(ClientError):
    """An error that declares nothing."""


class OfAnything(ClientError):
    details: Any


class WithInit(ClientError):
    error = "with init"
    details: dict[str, int]

    def __init__(self, number: int) -> None:
        super().__init__(details={"number": number})


class Row(TypedDict):
    id: int


@dataclass
class Place:
    x: int


class OfRow(ClientError):
    details: Row | list[Place]


async def answer_of(error: Any, **options: Any) -> tuple[str, Any]:
    """Return name and details of the reply to a command that raises an error."""
    group = CommandGroup()

    @group.command("fail", **options)
    async def fail(socket: Socket) -> None:
        raise error

    async with TestClient(app_with(group)) as client:
        with pytest.raises(CommandError) as caught:
            await client.call("fail")
    return caught.value.error, caught.value.details


@pytest.mark.parametrize("is_declared", [True, False])
@pytest.mark.parametrize(
    ("error", "name", "details"),
    [
        (NicknameTaken(details=Free(free=["ann"])), "nickname taken", {"free": ["ann"]}),
        (TooLong, "nickname too long", None),
        (TooLong(details=3), "nickname too long", 3),
        (Plain, "plain", None),
        (Plain(details={"any": [1]}), "plain", {"any": [1]}),
        (WithInit(5), "with init", {"number": 5}),
        (OfAnything(details={"a": [None]}), "of anything", {"a": [None]}),
        (OfRow(details={"id": 1}), "of row", {"id": 1}),
        (OfRow(details=[Place(1)]), "of row", [{"x": 1}]),
        (Plain("another name"), "another name", None),
    ],
)
async def test_a_kind_of_error_has_a_name_and_details(
    error: Any, name: str, details: Any, is_declared: bool
) -> None:
    kind = error if isinstance(error, type) else type(error)
    declared = {"raises": [kind]} if is_declared else {}
    assert await answer_of(error, **declared) == (name, details)


@pytest.mark.parametrize(
    ("error", "misfit"),
    [
        (NicknameTaken(details={"free": "ann"}), "free: Input should be a valid list"),
        (NicknameTaken(), "it: Input should be a valid dictionary"),
        (TooLong(details="long"), "it: Input should be a valid integer"),
    ],
)
async def test_details_of_another_type_are_an_internal_error(
    error: ClientError, misfit: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect an incident that names what does not fit, and no value."""
    name, details = await answer_of(error, raises=[type(error)])
    assert name == "internal error" and details.keys() == {"incident"}
    (record,) = errors(caplog)
    assert record.exc_text is not None or record.exc_info is not None
    text = str(record.exc_info[1]) if record.exc_info else record.getMessage()
    assert misfit in text and f"details in {type(error).__name__}" in text


async def test_errors_of_streams_and_of_every_transport(serving: Serving) -> None:
    group = CommandGroup(raises=[NicknameTaken])

    @group.command("count")
    async def count(socket: Socket) -> AsyncIterator[int]:
        yield 1
        raise NicknameTaken(details=Free(free=["bob"]))

    async with serving(app_with(group)) as server:
        async with dial(server) as client:
            await client.send("count", id=7)
            assert (await client.receive())["payload"] == 1
            assert await client.receive() == {
                "error": "nickname taken",
                "details": {"free": ["bob"]},
                "id": 7,
            }


def test_an_error_without_a_name_is_refused() -> None:
    with pytest.raises(TypeError, match="give the error its name, or raise a subclass"):
        ClientError()


def test_a_command_lists_the_errors_of_its_group_and_its_own() -> None:
    group = CommandGroup(raises=[NicknameTaken, NotAuthorized])

    @group.command("both", raises=[TooLong, NicknameTaken])
    async def both(socket: Socket) -> None: ...

    @group.command("none")
    async def none(socket: Socket) -> None: ...

    commands = app_with(group).commands
    assert commands["both"].raises == (NicknameTaken, NotAuthorized, TooLong)
    assert commands["none"].raises == (NicknameTaken, NotAuthorized)


@pytest.mark.parametrize(
    "error",
    [
        CommandTimeout,
        Expired,
        Forbidden,
        InvalidChannel,
        NotAuthorized,
        TooManySubscriptions,
        Unavailable,
    ],
)
def test_errors_of_the_framework_may_be_declared(error: type[ClientError]) -> None:
    group = CommandGroup()

    @group.command("any", raises=[error])
    async def any(socket: Socket) -> None: ...

    assert app_with(group).commands["any"].raises == (error,)


class NotYours(Forbidden):
    """An error of the framework by another class."""


class NotYet(Forbidden):
    error = "not yet"
    details: int


def test_subclasses_of_errors_of_the_framework_may_be_declared() -> None:
    group = CommandGroup()

    @group.command("any", raises=[NotYours, NotYet])
    async def any(socket: Socket) -> None: ...

    assert app_with(group).commands["any"].raises == (NotYours, NotYet)


# Details whose type is defined later --------------------------------------------------------------


class Early(ClientError):
    details: "Later"  # type: ignore[name-defined]  # noqa: F821  # not yet defined


def test_the_type_of_details_may_be_defined_later() -> None:
    group = CommandGroup()

    @group.command("early", raises=[Early])
    async def early(socket: Socket) -> None: ...

    globals()["Later"] = int
    try:
        assert app_with(group).commands["early"].raises == (Early,)
    finally:
        del globals()["Later"]


class Never(ClientError):
    details: "Undefined"  # type: ignore[name-defined]  # noqa: F821  # undefined


async def test_details_whose_type_is_never_defined_are_any_json_unless_declared() -> None:
    assert await answer_of(Never(details=[1])) == ("never", [1])


# Mistakes -----------------------------------------------------------------------------------------


class NameInInit(ClientError):
    def __init__(self) -> None:
        super().__init__("some name")


class BelowNamed(TooLong):
    def __init__(self) -> None:
        super().__init__("some name")


class Nameless(ClientError):
    error = ""


class Half(ClientError):
    error = "\ud800"


class Shadow(ClientError):
    error = "validation error"


class ForbiddenWithDetails(Forbidden):
    details: int


class NicknameTakenToo(ClientError):
    error = "nickname taken"


class Unserialisable(ClientError):
    details: Socket


@pytest.mark.parametrize(
    ("raises", "texts"),
    [
        ([Plain()], ["Plain(...) is an error; write its class, Plain"]),
        ([KeyError], ["KeyError is not a ClientError", "map another error to it by app.on_error"]),
        (["taken"], ["'taken' is not a ClientError"]),
        ([ClientError], ["ClientError itself has no name; derive a class from it"]),
        (
            [NameInInit],
            ["the name of NameInInit is in its __init__, ", 'write error = "..." in the body'],
        ),
        ([BelowNamed], ["the name of BelowNamed is in its __init__, "]),
        ([Nameless], ["Nameless.error = '': the name of an error is a str that is not empty"]),
        ([Half], ["has a UTF-8 form"]),
        ([Shadow], ["Shadow has the name 'validation error' of an error of websuckets"]),
        ([ForbiddenWithDetails], ["has the name 'forbidden' of an error of websuckets"]),
        (
            [NicknameTaken, NicknameTakenToo],
            ["NicknameTaken and NicknameTakenToo have one name, 'nickname taken'", "drop one"],
        ),
        ([NotAuthorized, Expired], ["NotAuthorized and Expired have one name"]),
        ([Unserialisable], ["raises=[Unserialisable]: the annotation of its details: "]),
        ([Plain(), KeyError], ["2 problems", "KeyError is not", "Plain(...) is an error"]),
    ],
)
def test_errors_that_cannot_be_declared_are_refused(raises: Any, texts: list[str]) -> None:
    """Expect command, function, file and line, and the remedy."""
    group = CommandGroup("user")
    with pytest.raises(ConfigurationError) as caught:

        @group.command("add", raises=raises)
        async def add(socket: Socket) -> None: ...

    shown = str(caught.value)
    for text in ("command 'user add', `", "test_declared_errors.py, line ", "raises=[", *texts):
        assert text in shown


def test_an_annotation_that_is_never_defined_is_refused_at_the_start() -> None:
    group = CommandGroup("user")

    @group.command("add", raises=[Never])
    async def add(socket: Socket) -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        app_with(group).asyncapi()
    for text in ("command 'user add', `", "raises=[Never]: ", "name 'Undefined' is not defined"):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: CommandGroup(raises=Plain), "write a list, raises=[Plain]"),  # type: ignore[arg-type]  # refused
        (lambda: CommandGroup(raises="Plain"), "write a list, raises=[NicknameTaken]"),  # type: ignore[arg-type]  # refused
        (lambda: CommandGroup().command("a", raises=3), "@group.command('a', raises=...): 3: "),  # type: ignore[arg-type]  # refused
        (lambda: CommandGroup().command("a", deprecated="yes"), "it is True or False"),  # type: ignore[arg-type]  # refused
        (lambda: CommandGroup("a", tags="b"), "CommandGroup('a', tags='b'): write a list"),
        (lambda: CommandGroup("a", tags=[""]), "tags=[...]): '' is not a name; write a str"),
        (lambda: CommandGroup("a", tags=[3]), "tags=[...]): 3 is not a name; write a str"),  # type: ignore[list-item]
    ],
)
def test_values_that_are_not_valid_are_refused(make: Any, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("options", "tags"),
    [
        ({}, ()),
        ({"prefix": "user"}, ("user",)),
        ({"prefix": "user", "tags": []}, ()),
        ({"prefix": "user", "tags": ["People", "People", "Admin"]}, ("People", "Admin")),
    ],
)
def test_a_group_has_its_prefix_as_its_tag_unless_it_has_others(
    options: dict[str, Any], tags: tuple[str, ...]
) -> None:
    group = CommandGroup(**options)

    @group.command("add", deprecated=True)
    async def add(socket: Socket) -> None: ...

    (info,) = app_with(group).commands.values()
    assert (info.tags, info.deprecated) == (tags, True)
