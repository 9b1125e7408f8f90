"""Each single change of an app changes its generated client, and the difference names it."""

from typing import Final

import awkward_client
import pytest
from generated_clients import (
    app_of_example,
    module_of,
    names_of_examples,
    read_again,
    source_of,
)

from websuckets import WebSuckets
from websuckets.asyncapi.texts import as_json
from websuckets.client_generation import python_client, read_document

APP: Final = '''\
from enum import Enum
from typing import Annotated, Any

from pydantic import BaseModel, Field

from websuckets import Channels, ClientError, CommandGroup, Event, Payload, Socket, WebSuckets
from websuckets.channels import Channel, History


class Color(Enum):
    """Colours."""

    RED = "red"
    BLUE = "blue"


class Item(BaseModel):
    """An item."""

    name: str = Field(max_length=20, description="Its name.")
    size: int = 1
    color: Color = Color.RED
    tags: list[str] = []


class Shown(BaseModel):
    id: int


class Gone(Event):
    """It is gone."""

    id: int


class Come(Event):
    id: int


class Full(ClientError):
    """The shop is full."""

    details: int


class Shut(ClientError):
    details: None


shop = Channel("shop/{id}", events=[Gone, Come], history=History(size=10, seconds=5))
group = CommandGroup("item")


@group.command("add", once=True, raises=[Full], timeout=5)
async def add(socket: Socket, item: Item) -> Shown:
    """Add an item.

    It is there at once.
    """


@group.command("count")
async def count(socket: Socket, upto: Payload[int]) -> int: ...


@group.command("watch", subscribes=[shop])
async def watch(socket: Socket, channels: Channels) -> Shown: ...


@group.command("list")
async def all_(socket: Socket) -> list[Shown]: ...


app = WebSuckets(title="Shop", version="1", channels=[shop])
app.include_command_group(group)
'''

CHANGES: Final = {
    "the type of a field": ("size: int = 1", "size: float = 1", "Item"),
    "a constraint": ("max_length=20", "max_length=30", "Item"),
    "a default": ("size: int = 1", "size: int = 2", "Item"),
    "a field that is required": ("size: int = 1", "size: int", "Item"),
    "a field that may be null": ("size: int = 1", "size: int | None = 1", "Item"),
    "a new optional field": ("size: int = 1", "size: int = 1; weight: int = 1", "Item"),
    "a new field": ("Shown(BaseModel):", "Shown(BaseModel):\\n    x: str", "Shown"),
    "the name of a field": ("name: str", "title: str", "Item"),
    "an alias": ("size: int = 1", 'size: int = Field(1, alias="amount")', "Item"),
    "a deprecated field": ("size: int = 1", "size: int = Field(1, deprecated=True)", "Item"),
    "the description of a field": ("Its name.", "Its new name.", "Item"),
    "the description of a model": ("An item.", "A thing.", "Item"),
    "the name of a model": ("Item", "Thing", "Thing"),
    "a value of an enumeration": ('"blue"', '"navy"', "Color"),
    "the description of an enumeration": ("Colours.", "Colors.", "Color"),
    "fields that are kept": ("Item(BaseModel)", 'Item(BaseModel, extra="allow")', "Item"),
    "the name of a command": ('"add"', '"put"', "Api.item_put"),
    "the prefix of commands": ('CommandGroup("item")', 'CommandGroup("thing")', "Api.thing_add"),
    "a command less": ('@group.command("list")\\n', "", "Api.item_list"),
    "a command that may be sent again": ("once=True, ", "", "Api.item_add"),
    "a deprecated command": ("timeout=5", "timeout=5, deprecated=True", "Api.item_add"),
    "the time of a command": ("timeout=5", "timeout=6", "Api.item_add"),
    "a command for users": ('"list"', '"list", protected=True', "Api.item_list"),
    "the summary of a command": ("Add an item.", "Put an item.", "Api.item_add"),
    "the description of a command": ("there at once", "there later", "Api.item_add"),
    "a payload": ("upto: Payload[int]", "upto: Payload[str]", "Api.item_count"),
    "a payload that may be left out": (
        *("upto: Payload[int]", "upto: Payload[int] | None = None"),
        "Api.item_count",
    ),
    "the constraint of a payload": (
        *("upto: Payload[int]", "upto: Payload[Annotated[int, Field(ge=1)]]"),
        "Api.item_count",
    ),
    "a reply": ("-> list[Shown]", "-> list[Shown] | None", "Api.item_list"),
    "a stream": (
        *("upto: Payload[int]) -> int: ...", "upto: Payload[int]) -> AsyncIterator[int]: yield 1"),
        "Api.item_count",
    ),
    "a new error": ("raises=[Full]", "raises=[Full, Shut]", "ShutError"),
    "no error": ("raises=[Full], ", "", "Api.item_add"),
    "the name of an error": ("details: int", 'details: int; error = "shut up"', "ShutUpError"),
    "the details of an error": ("    details: int", "    details: str", "FullError"),
    "the description of an error": ("The shop is full.", "It is full.", "FullError"),
    "an event of a channel": ("[Gone, Come]", "[Gone]", "ShopChannelEvent"),
    "the name of an event": ("Gone(Event)", 'Gone(Event, name="left")', "LeftEvent"),
    "the payload of an event": ("class Come(Event):", "class Come(Event):\\n    x: int", "Come"),
    "the description of an event": ("It is gone.", "It has gone.", "GoneEvent"),
    "the pattern of a channel": ("shop/{id}", "shops/{id}", "shops_channel"),
    "the parameter of a channel": ("shop/{id}", "shop/{name}", "shop_channel"),
    "a channel without a history": (", history=History(size=10, seconds=5)", "", "shop_channel"),
    "the size of a history": ("size=10", "size=11", "shop_channel"),
    "presence": ("seconds=5)", "seconds=5), presence=True", "ShopChannelEvent"),
    "any event": ("events=[Gone, Come], ", "", "ShopChannelEvent"),
    "no subscription": (", subscribes=[shop]", "", "Api.item_watch"),
    "the title": ('title="Shop"', 'title="Store"', "Api"),
    "the version": ('version="1"', 'version="2"', "Api"),
}  # fmt: skip
"""Changes: the text before and after each, and the part of the client that differs."""


def app_of(source: str) -> WebSuckets:
    app: WebSuckets = module_of(f"from collections.abc import AsyncIterator\n{source}").app
    return app


@pytest.mark.parametrize("change", CHANGES)
def test_each_single_change_is_a_difference_that_names_its_place(change: str) -> None:
    before, after, place = (text.replace("\\n", "\n") for text in CHANGES[change])
    assert before in APP
    found = source_of(app_of(APP))
    changed = python_client(read_document(app_of(APP.replace(before, after)).asyncapi()))
    assert str(changed) != found
    lines = list(changed.differences(found, "api.py"))
    assert any(line.startswith("--- api.py") for line in lines)
    differing = changed.differing_from(found)
    assert place in [name for names in differing.values() for name in names]
    assert len(differing["new"]) + len(differing["changed"]) < len(changed.parts)


def test_a_client_that_is_up_to_date_has_no_differences() -> None:
    source = python_client(read_document(app_of(APP).asyncapi()))
    assert str(source) == source_of(app_of(APP))
    assert list(source.differences(str(source), "api.py")) == []


def test_many_differences_are_cut_off() -> None:
    source = python_client(read_document(awkward_client.app.asyncapi()))
    lines = list(source.differences("", "api.py"))
    assert lines[-1] == "..." and len(lines) < 40
    assert lines[0].startswith("new: ") and lines[0].endswith(" more")


def test_what_is_new_changed_and_gone_is_told_apart() -> None:
    now = APP.replace("size: int", "size: float").replace('"list"', '"all"')
    changed = python_client(read_document(app_of(now).asyncapi()))
    assert changed.differing_from(source_of(app_of(APP))) == {
        "new": ["_ITEM_ALL_RESULT", "Api.item_all"],
        "changed": ["Item"],
        "gone": ["_ITEM_LIST_RESULT", "Api.item_list"],
    }


def test_the_names_of_a_module_are_those_of_its_parts() -> None:
    source = python_client(read_document(awkward_client.app.asyncapi()))
    names = [part.name for part in source.parts if part.name]
    assert list(source.names_in(str(source))) == names


@pytest.mark.parametrize("name", [*names_of_examples(), "awkward"])
def test_the_document_alone_gives_the_same_client(name: str) -> None:
    app = awkward_client.app if name == "awkward" else app_of_example(name)
    document = app.asyncapi()
    source = str(python_client(read_document(document)))
    assert str(python_client(read_document(read_again(document)))) == source
    assert as_json(read_again(document)) == as_json(document)
