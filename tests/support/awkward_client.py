"""An app whose types and names are hard for those who generate clients: `make_app`."""

import datetime as dt
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, TypeVar
from uuid import UUID, uuid4

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, IPvAnyAddress, RootModel, SecretStr
from typing_extensions import TypeAliasType, TypedDict

from websuckets import (
    Channels,
    ClientError,
    ClientEvent,
    CommandGroup,
    Event,
    Payload,
    Socket,
    Token,
    User,
    WebSuckets,
)
from websuckets.channels import Channel, History

T = TypeVar("T")


class Color(StrEnum):
    """Colours, of which one is "dark"."""

    RED = "red"
    DARK_BLUE = "dark-blue"
    DARK_BLUE_2 = "dark blue"
    NOTHING = ""
    DIGIT = "1st"


class Level(IntEnum):
    LOW = -1
    HIGH = 2


class Mixed(Enum):
    TEXT = "text"
    NUMBER = 1.5
    NOTHING = None


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    class_: str = Field(alias="class", description='Class of the cat: \\ and """quotes"""')


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


class Tree(BaseModel):
    value: Any
    children: list["Tree"] = []
    parent: "Tree | None" = None


class Husband(BaseModel):
    wife: "Wife | None" = None


class Wife(BaseModel):
    husband: Husband


Json = TypeAliasType("Json", "list[Json] | dict[str, Json] | str | int | None")


class Page(BaseModel, Generic[T]):
    """A page of many things."""

    items: list[T]
    next: int | None = None


class Row(TypedDict):
    number: int
    note: NotRequired[str]
    maybe: NotRequired[str | None]


class Point(NamedTuple):
    x: int
    y: int = 0


@dataclass
class Box:
    width: int
    tags: list[str] = field(default_factory=list)
    inner: "Box | None" = None


class Any_(BaseModel):
    """A model whose name is nearly one that the client imports."""

    model_config = ConfigDict(title="Any")

    any: Any


class TypeAdapter(BaseModel):
    """A model with the name of a class that the client imports."""

    client: str
    model_copy_: int = Field(alias="model_copy")


class Names(BaseModel):
    """A model whose fields have names that Python, or pydantic, does not like."""

    model_config = ConfigDict(populate_by_name=True, extra="allow", protected_namespaces=())

    from_: int = Field(alias="from")
    import_: int = Field(default=1, alias="import")
    first_name: str = Field(alias="firstName")
    first_name_2: str = Field(alias="first-name")
    first_name_3: str = Field(alias="first_name")
    number_1: int = Field(alias="1")
    nothing: int = Field(alias="")
    sign: int = Field(alias="+")
    name_of_a_city: str = Field(alias="Город рождения")
    model_validate_json_: str = Field(alias="model_validate_json")
    json_: str = Field(alias="json")
    private: int = Field(alias="__private")
    dt: dt.datetime
    int_: int = Field(alias="int")
    list_: list[int] = Field(alias="list")
    str_: str = Field(alias="str")
    date: dt.date | None = None
    self_: int = Field(alias="self")


class Größe(BaseModel):
    """A model with a name that is not of ASCII."""

    größe: int


class Everything(BaseModel):
    """Values of all kinds.

    The second paragraph ends with a "quotation"
    """

    pet: Pet
    pets: list[Pet] = []
    tree: Tree | None = None
    married: Husband
    moment: dt.datetime
    day: dt.date = dt.date(2020, 1, 31)
    time: dt.time = dt.time(12, 30)
    duration: dt.timedelta = dt.timedelta(days=1, seconds=1)
    id: UUID = Field(default_factory=uuid4)
    fixed_id: UUID = UUID(int=1)
    amount: Decimal = Field(max_digits=5, decimal_places=2)
    ratio: float = 1
    data: bytes = b"x"
    pair: tuple[int, str]
    nothing: tuple[()] = ()
    numbers: tuple[int, ...]
    unique: set[int] = set()
    colors: frozenset[Color] = frozenset()
    color: Color = Color.RED
    level: Level = Level.LOW
    mixed: Mixed = Mixed.TEXT
    one: Literal[Color.RED] = Color.RED
    row: Row
    box: Box
    boxes: list[Box] = [Box(1)]
    point: Point = Point(1)
    json_value: Json
    page: Page[Cat]
    pages: dict[str, Page[Dog]]
    by_color: dict[Color, int]
    by_number: dict[int, str]
    few: Annotated[int, Field(ge=1, lt=6, multiple_of=2, description="Even.")] = 2
    short: Annotated[str, Field(min_length=1, max_length=9, pattern=r'^[a-z\d"]+$')]
    several: Annotated[list[Annotated[str, Field(max_length=3)]], Field(min_length=1)]
    either: int | str | None = None
    constant: Literal[1, "a", None, True] = "a"
    old: str | None = Field(default=None, deprecated=True)
    password: SecretStr
    anything: Any = None
    address: IPv4Address = IPv4Address("127.0.0.1")
    any_address: IPvAnyAddress = IPv4Address("127.0.0.1")
    url: HttpUrl | None = None
    file: Path = Path("a/b")
    rates: dict[Decimal, Decimal | None] = {}
    null: None = None
    not_null: int = Field(default=None)  # type: ignore[arg-type]
    text: str = 'a "text" with \\ and \x07 and ё'
    map: dict[str, int] = {"a": 1}


class Ids(RootModel[list[UUID]]):
    """Ids in their order."""


class Taken(BaseModel):
    by: str
    until: dt.datetime


class NicknameTaken(ClientError):
    """Somebody has the nickname."""

    details: Taken


class TooYoung(ClientError):
    details: int


class ValidationError(ClientError):
    """An error with a name that pydantic has."""

    error = "validation"
    details: None


class Commented(Event):
    """Somebody has commented."""

    text: str
    at: dt.datetime


class Closed(Event, name="closed: for good"): ...


class Moved(Event, name="commented 2"):
    x: int


ticket = Channel(
    "ticket/{id}",
    events=[Commented, Closed],
    history=History(size=100, seconds=60),
    presence=True,
)
room = Channel("room/{house}/floor-{floor}/{class_}", events=[Moved])
news = Channel("news", events=[Commented, Moved])
anything = Channel("anything/{id}")
"""Channels with a history and presence, with several parameters, without any, and of any event."""

users = CommandGroup("user")
odd = CommandGroup()


@users.command("create", once=True, raises=[NicknameTaken, TooYoung])
async def create(socket: Socket, nickname: Payload[str]) -> Page[str]:
    """Create a user.

    Nobody else has the nickname then.
    """
    if nickname == "ann":
        raise NicknameTaken(details=Taken(by="ann", until=dt.datetime(2020, 1, 1, tzinfo=dt.UTC)))
    if nickname == "baby":
        raise TooYoung(details=3)
    return Page(items=[nickname])


@users.command("everything", raises=[ValidationError])
async def everything(socket: Socket, payload: Everything) -> Everything:
    if payload.short == "bad":
        raise ValidationError
    return payload


@users.command("names", deprecated=True, protected=False, timeout=5)
async def names(socket: Socket, payload: Names) -> Names:
    """Say the names again. Use ``user everything``."""
    return payload


@users.command("list")
async def list_(socket: Socket, ids: Payload[list[UUID]]) -> list[Pet]:
    return [Dog(kind="dog", name=str(id)) for id in ids]


@users.command("pets")
async def pets(socket: Socket, payload: Payload[Pet] | None = None) -> Pet | None:
    return payload


@users.command("ids")
async def ids(socket: Socket, payload: Payload[Ids]) -> Ids:
    return payload


@users.command("count", raises=[TooYoung])
async def count(socket: Socket, upto: Payload[int]) -> AsyncIterator[Page[int]]:
    """Count."""
    for n in range(upto):
        yield Page(items=[n])
    if upto > 3:
        raise TooYoung(details=upto)


@users.command("walk")
async def walk(socket: Socket) -> AsyncIterator[int | Moved]:
    yield 1
    yield Moved(x=2)


@users.command("watch", subscribes=[ticket], raises=[TooYoung])
async def watch(socket: Socket, id: Payload[int], channels: Channels) -> Page[str]:
    """Watch a ticket."""
    if id < 0:
        raise TooYoung(details=id)
    await channels.subscribe(socket, ticket(id=id))
    return Page(items=[])


@users.command("watch many", subscribes=[ticket, room, news, anything])
async def watch_many(socket: Socket, channels: Channels) -> None:
    await channels.subscribe(socket, news())
    await channels.subscribe(socket, anything(id=1))


@users.command("comment")
async def comment(socket: Socket, id: Payload[int], channels: Channels) -> None:
    at = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    await channels.publish(ticket(id=id), Commented(text="hello", at=at))
    await channels.publish(news(), Moved(x=id))
    await channels.publish(anything(id=1), ClientEvent("whatever", [id]))


@users.command("close")
async def close(socket: Socket, id: Payload[int], channels: Channels) -> None:
    await channels.publish(ticket(id=id), Closed())


@odd.command("log in")
async def enter(socket: Socket, name: Payload[str], user: User) -> Token:
    user.id, user.token = name, Token.generate()
    return user.token


@odd.command("address")
async def address(socket: Socket, payload: Payload[IPvAnyAddress]) -> IPvAnyAddress:
    return payload


@odd.command("class")
async def class_(socket: Socket) -> None: ...


@odd.command("list")
async def all_(socket: Socket) -> Sequence[Any_]:
    return []


@odd.command("client")
async def client(socket: Socket, payload: TypeAdapter) -> TypeAdapter | Größe | int:
    return Größe(größe=1)


@odd.command("on")
async def on(socket: Socket) -> Husband | None:
    return None


@odd.command("deprecated", deprecated=True)
async def deprecated(socket: Socket) -> Any:
    return {"a": [1]}


@odd.command("получить заметку")
async def note(socket: Socket, payload: Payload[Any]) -> ClientEvent:
    """Получить «заметку»."""
    return ClientEvent("note", payload)


@odd.command("userCreate")
async def user_create(socket: Socket) -> Moved | Commented:
    return Moved(x=1)


@odd.command("1st")
async def first(socket: Socket, payload: Payload[Box]) -> Box:
    return payload


@odd.command("+")
async def plus(socket: Socket, payload: Payload[tuple[int, int]]) -> int:
    return sum(payload)


@odd.command("-")
async def minus(socket: Socket, payload: Payload[Point]) -> dict[str, Row]:
    return {"a": {"number": payload.x - payload.y}}


def make_app() -> WebSuckets:
    """Return the app; each one has its own channels and tasks."""
    app = WebSuckets(
        title='Awkward\n"""registry"""', version="1.0", channels=[ticket, room, news, anything]
    )
    app.include_command_group(users)
    app.include_command_group(odd)
    return app


app = make_app()
