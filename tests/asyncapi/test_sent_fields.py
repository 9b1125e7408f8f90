"""Fields of what the server sends: the document requires those that are always sent."""

import dataclasses
import json
from collections.abc import Mapping
from importlib import import_module
from typing import Annotated, Any, Literal, NotRequired

import pydantic
import pytest
from documents import document_of, property_of, validator_of
from harness import app_with, dial
from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, computed_field
from pydantic.dataclasses import dataclass as pydantic_dataclass
from pydantic.functional_serializers import model_serializer
from serving import in_memory
from typing_extensions import TypedDict

from websuckets import Channels, ClientError, CommandGroup, Event, Payload, Socket
from websuckets.channels import Channel

pytestmark = pytest.mark.anyio

VERSION = tuple(int(part) for part in pydantic.VERSION.split(".")[:2])


class Settings(BaseModel):
    kind: Literal["settings"] = "settings"
    depth: int
    tags: list[str] = Field(default_factory=list)
    note: str | None = None


class Sloppy(BaseModel):
    """A model whose defaults are not of its types, of which pydantic says nothing."""

    number: int = None  # type: ignore[assignment]  # that is the case
    kind: Literal["a", "b"] = Field(default=None, description="Kind.")  # type: ignore[arg-type]  # as above
    settings: Settings = None  # type: ignore[assignment]  # as above
    texts: list[str] | int = None  # type: ignore[assignment]  # as above


class Nullable(BaseModel):
    """A model whose fields have the type of null already."""

    null: None = None
    number: int | None = None
    either: Literal["a", None] = None
    any: Any = None


class Hidden(BaseModel):
    shown: int = 1
    hidden: int = Field(default=2, exclude=True)

    @computed_field  # type: ignore[prop-decorator]  # as pydantic documents it
    @property
    def double(self) -> int:
        return 2 * self.shown


class Partial(TypedDict, total=False):
    number: int
    deep: Settings


class Mixed(TypedDict):
    number: int
    text: NotRequired[str]


@dataclasses.dataclass
class Account:
    login: str
    points: int = 0
    opened: dataclasses.InitVar[int] = 3
    level: int = dataclasses.field(default=1, init=False)


@pydantic_dataclass
class Checked:
    points: int = 0


class WithoutNulls(BaseModel):
    """A model that may leave any field out, for all that the type of its serializer tells."""

    number: int | None
    text: str = "a"

    @model_serializer(mode="wrap")
    def _without_nulls(self, write: SerializerFunctionWrapHandler):  # type: ignore[no-untyped-def]  # pydantic would take its type from an annotation
        return {name: value for name, value in write(self).items() if value is not None}


class CheckedWithoutNulls(WithoutNulls):
    @pydantic.model_validator(mode="after")
    def _check(self) -> "CheckedWithoutNulls":
        return self


@pydantic_dataclass
class DataWithoutNulls:
    number: int | None = None

    @model_serializer(mode="wrap")
    def _without_nulls(self, write: SerializerFunctionWrapHandler):  # type: ignore[no-untyped-def]  # as above
        return {name: value for name, value in write(self).items() if value is not None}


class Counted(BaseModel):
    """A model whose serializer tells what it writes."""

    number: int = 0

    @model_serializer
    def _counted(self) -> dict[str, int]:
        return {"count": self.number}


SENT: list[tuple[Any, Any, set[str]]] = [
    (Settings, Settings(depth=1), {"kind", "depth", "tags", "note"}),
    (Sloppy, Sloppy(), {"number", "kind", "settings", "texts"}),
    (Nullable, Nullable(), {"null", "number", "either", "any"}),
    (Hidden, Hidden(), {"shown", "double"}),
    (Partial, {}, set()),
    (Mixed, {"number": 1}, {"number"}),
    (Account, Account("ann"), {"login", "points", "level"}),
    (Checked, Checked(), {"points"}),
    (WithoutNulls, WithoutNulls(number=None), set()),
    (CheckedWithoutNulls, CheckedWithoutNulls(number=None), set()),
    (DataWithoutNulls, DataWithoutNulls(), set()),
    (Counted, Counted(), set()),
]
"""Types, values of them of which little is sent, and the fields that are always sent."""

if VERSION >= (2, 12):  # older versions of pydantic cannot leave fields out by their values

    class Sparse(BaseModel):
        zero: int = Field(default=0, exclude_if=lambda value: value == 0)
        needed: int = Field(exclude_if=lambda value: value == 0)
        always: int = 0

    SENT.append((Sparse, Sparse(needed=0), {"always"}))

    MISSING: Any  # the name of a value that is not there
    if VERSION >= (2, 14):
        MISSING = pydantic.MISSING
    else:
        MISSING = import_module("pydantic.experimental.missing_sentinel").MISSING

    class Missing(BaseModel):
        one: int | MISSING = MISSING
        other: Annotated[int | MISSING | None, Field(description="Other.")] = None
        needed: int | MISSING
        several: Annotated[int | MISSING, Field(description="Number.")] | str = "a"
        always: int | None = None

    SENT.append((Missing, Missing(needed=MISSING, other=MISSING, several=MISSING), {"always"}))


def required_of(document: Mapping[str, Any], schema: Mapping[str, Any]) -> set[str]:
    """Return the names that a schema requires, or that one that it refers to does."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return set(schema.get("required", ()))


@pytest.mark.parametrize(
    ("hint", "value", "always"), SENT, ids=[hint.__name__ for hint, _, _ in SENT]
)
async def test_what_is_always_sent_is_required_and_nothing_else(
    hint: Any, value: Any, always: set[str]
) -> None:
    """Expect it in replies, items, errors and events, and each frame to fit its schema."""
    Made: Any = pydantic.create_model("Made", __base__=Event, value=(hint, value))
    news = Channel("news", events=[Made])
    group = CommandGroup()

    class Failed(ClientError):
        details: hint

    @group.command("give")
    async def give(socket: Socket) -> hint:
        return value

    @group.command("fail", raises=[Failed])
    async def fail(socket: Socket) -> None:
        raise Failed(details=value)

    @group.command("publish", subscribes=[news])
    async def publish(socket: Socket, channels: Channels) -> None:
        await channels.subscribe(socket, news())
        await channels.publish(news(), Made())

    app = app_with(group, channels=[news])
    document = app.asyncapi()
    reply = property_of(document, "give.reply", "payload")
    details = property_of(document, "error.failed", "details")
    event = document["components"]["schemas"]["Made"]
    assert required_of(document, reply) == required_of(document, details) == always
    assert event["required"] == ["value"]
    async with in_memory(app) as server, dial(server) as client:
        frames = {
            "give.reply": await client.call("give", id=1),
            "error.failed": await client.call("fail", id=2),
        }
        received = [await client.call("publish", id=3), await client.receive()]
        (frames["event.made"],) = [frame for frame in received if "id" not in frame]
    for key, frame in frames.items():
        assert list(validator_of(document, key).iter_errors(frame)) == [], (key, frame)
    assert always <= frames["give.reply"]["payload"].keys()


async def test_what_is_received_may_be_left_out_where_it_has_a_default() -> None:
    """Expect two schemas of a model that is both received and sent, also within others."""

    class Page(BaseModel):
        of: Settings

    group = CommandGroup()

    @group.command("set")
    async def set_(socket: Socket, payload: Settings) -> Page:
        return Page(of=payload)

    @group.command("many")
    async def many(socket: Socket, payload: Payload[list[Page]]) -> list[Page]:
        return payload

    document = document_of(group)
    schemas = document["components"]["schemas"]
    named = {name for name in schemas if not name.startswith("websuckets.")}
    assert named == {"Page-Input", "Page-Output", "Settings-Input", "Settings-Output"}
    assert schemas["Settings-Input"]["required"] == ["depth"]
    assert schemas["Settings-Output"]["required"] == ["kind", "depth", "tags", "note"]
    assert property_of(document, "set", "payload")["$ref"].endswith("/Settings-Input")
    assert schemas["Page-Output"]["properties"]["of"]["$ref"].endswith("/Settings-Output")
    async with in_memory(app_with(group)) as server, dial(server) as client:
        reply = await client.call("set", payload={"depth": 1})
    assert json.dumps(reply["payload"]["of"]) == json.dumps(
        {"kind": "settings", "depth": 1, "tags": [], "note": None}
    )


def test_null_is_added_once_to_the_type_of_a_default_that_is_none() -> None:
    group = CommandGroup()

    @group.command("sloppy")
    async def sloppy(socket: Socket, payload: Sloppy) -> Sloppy: ...  # type: ignore[empty-body]  # never called

    @group.command("nullable")
    async def nullable(socket: Socket) -> Nullable: ...  # type: ignore[empty-body]  # never called

    schemas = document_of(group)["components"]["schemas"]
    sent = schemas["Sloppy-Output"]["properties"]
    null = {"type": "null"}
    assert sent["number"]["anyOf"] == [{"type": "integer"}, null]
    assert sent["kind"]["anyOf"] == [{"enum": ["a", "b"], "type": "string"}, null]
    assert sent["kind"]["description"] == "Kind."
    assert sent["settings"]["anyOf"] == [{"$ref": "#/components/schemas/Settings-Output"}, null]
    assert null in sent["texts"]["anyOf"]
    assert schemas["Sloppy-Input"]["properties"]["number"]["type"] == "integer"
    sent = schemas["Nullable"]["properties"]
    assert sent["number"]["anyOf"] == [{"type": "integer"}, null]
    assert sent["null"]["type"] == "null"
    assert "anyOf" not in sent["either"] and "anyOf" not in sent["any"]
