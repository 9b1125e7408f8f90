"""An app whose types and names are awkward for documents, and for what is generated from them."""

import enum
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, RootModel
from typing_extensions import TypeAliasType, TypedDict

from websuckets import ClientError, CommandGroup, Event, Payload, Socket, Token, WebSuckets
from websuckets.channels import Channel, History
from websuckets.exc import Forbidden, NotAuthorized

T = TypeVar("T")
Json = TypeAliasType("Json", "int | str | list[Json] | dict[str, Json] | None")  # type: ignore[misc]


class Color(enum.Enum):
    """Colors, some of which are keywords."""

    CLASS = "class"
    RED = "красный"
    EMPTY = ""


class Level(enum.IntEnum):
    LOW = -1


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]
    friend: "Pet | None" = None


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


class Page(BaseModel, Generic[T]):
    items: list[T]
    next: "Page[T] | None" = None


class Names(RootModel[dict[str, list[str]]]): ...


class Point(NamedTuple):
    x: int
    y: int = 0


class Row(TypedDict, total=False):
    id: UUID
    from_: int


@dataclass
class Money:
    """An amount."""

    amount: Decimal
    tags: set[str] = field(default_factory=set)


class Awkward(BaseModel):
    """A model with fields whose names are awkward."""

    model_config = ConfigDict(extra="allow")

    class_: int = Field(alias="class", description='A "quoted" description */ with\nlines.')
    with_blank: str = Field("", alias="with blank")
    self_: Color = Field(Color.RED, alias="self", deprecated=True)
    non_ascii: float | None = Field(None, alias="число")
    pets: list[Pet] = []
    pair: tuple[int, Point] = (0, Point(0))
    number: int = Field(0, validation_alias="in", serialization_alias="out")
    infinite: float = float("inf")


class Moved(Event, Generic[T]):
    """Something has moved."""

    to: T


class Import(Event, name="import"):
    value: Json


class WithDetails(ClientError):
    """An error with details."""

    error = "with details: 1/2"
    details: Page[Money] | None


class Lambda(ClientError): ...


room = Channel(
    "room/{class_}/user-{name}", events=[Moved[int], Import], history=History(), presence=True
)


class Group(BaseModel): ...


plain = CommandGroup(raises=[NotAuthorized])
awkward = CommandGroup("a-b c", protected=Group, raises=[WithDetails, Forbidden], tags=["я", "b c"])


@plain.command("class")
async def class_(socket: Socket) -> None:
    """Keyword."""


@plain.command("None")
async def none(socket: Socket, payload: Payload[Json]) -> Json: ...


@plain.command("import from")
async def import_from(socket: Socket, model: Awkward) -> Page[Awkward] | Page[int] | None: ...


@plain.command("import_from")
async def import_from_2(socket: Socket, rows: Payload[list[Row]] = []) -> dict[str, Row]:  # noqa: B006
    """Import_from.

    ```python
    a = \"\"\"b\"\"\"
    ```
    """
    raise NotImplementedError


@plain.command("anything")
async def anything(socket: Socket, any: Payload[Any]) -> Any: ...


@awkward.command("поток", subscribes=[room], deprecated=True)
async def stream(
    socket: Socket, names: Payload[Names | Literal[1, "a"]]
) -> AsyncIterator[Moved[int] | Import | Token | Level]:
    yield Level.LOW


@awkward.command("once", once=True, raises=[Lambda], timeout=None)
async def once(socket: Socket, money: Payload[Money | Point]) -> Money | Event: ...  # type: ignore[empty-body]


@awkward.command("watch", subscribes=[room])
async def watch(socket: Socket, page: Payload[Page[Page[Cat]]]) -> Page[Pet]: ...  # type: ignore[empty-body]


app = WebSuckets(title='"Awkward": true', version="1.0", channels=[room, Channel("any")])
app.include_command_group(plain)
app.include_command_group(awkward)
