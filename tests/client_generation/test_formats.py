"""Values that JSON has as texts or numbers of a format, in generated clients and back again."""

import datetime as dt
import re
from decimal import Decimal
from enum import Enum, IntEnum
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from pathlib import Path, PurePath, PurePosixPath
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import anyio
import pytest
from client_of import client_at
from generated_clients import module_of, read_again, source_of
from harness import app_with
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    UUID4,
    AnyUrl,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    IPvAnyAddress,
    PostgresDsn,
)
from timeouts import TIMEOUT

from websuckets import CommandGroup, Payload, Socket, WebSuckets
from websuckets.client_generation import python_client, read_document, typescript_client

NOON: Final = dt.datetime(2020, 2, 29, 12, tzinfo=dt.UTC)
ID: Final = UUID("6ba7b814-9dad-41d1-80b4-00c04fd430c8")


class Color(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 2


CASES: Final[list[tuple[Any, Any, str, str]]] = [
    (Decimal, Decimal("0.10"), "Decimal", "string"),
    (Decimal | None, Decimal("-1E+5"), "Decimal | None", "string | null"),
    (list[Decimal], [Decimal(1)], "list[Decimal]", "string[]"),
    (set[Decimal], {Decimal(1)}, "set[Decimal]", "string[]"),
    (dict[Decimal, int], {Decimal("1.5"): 1}, "dict[Decimal, int]", "{ [key: string]: number }"),
    (int | Decimal, Decimal("0.5"), "int | Decimal", "number | string"),
    (float | Decimal, 0.5, "float | Decimal", "number | string"),
    (bytes, b"ab", "bytes", "string"),
    (dt.timedelta, dt.timedelta(days=-1, microseconds=1), "dt.timedelta", "string"),
    (UUID, ID, "UUID", "string"),
    (UUID4, ID, "UUID", "string"),
    (dict[UUID, int], {ID: 1}, "dict[UUID, int]", "{ [key: string]: number }"),
    (dict[dt.date, int], {NOON.date(): 1}, "dict[dt.date, int]", "{ [key: string]: number }"),
    (dt.date, NOON.date(), "dt.date", "string"),
    (dt.time, NOON.time(), "dt.time", "string"),
    (dt.datetime, NOON, "dt.datetime", "string"),
    (AwareDatetime, NOON, "dt.datetime", "string"),
    (IPv4Address, IPv4Address("127.0.0.1"), "IPv4Address", "string"),
    (IPv4Interface, IPv4Interface("127.0.0.1/8"), "IPv4Interface", "string"),
    (IPv4Network, IPv4Network("127.0.0.0/8"), "IPv4Network", "string"),
    (IPv6Address, IPv6Address("::1"), "IPv6Address", "string"),
    (IPv6Interface, IPv6Interface("::1/128"), "IPv6Interface", "string"),
    (IPv6Network, IPv6Network("::/64"), "IPv6Network", "string"),
    (IPvAnyAddress, IPv6Address("::1"), "IPvAnyAddress", "string"),
    (Path, PurePosixPath("a/b.txt"), "PurePosixPath", "string"),
    (PurePath, PurePosixPath("C:\\a"), "PurePosixPath", "string"),
    (list[Path], [PurePosixPath("a")], "list[PurePosixPath]", "string[]"),
    (AnyUrl, "ws://example.org/", "str", "string"),
    (HttpUrl, "https://example.org/a?b", "str", "string"),
    (PostgresDsn, "postgres://a,b/c", "str", "string"),
    (Color, Color.RED, "Color", "Color"),
    (Level, Level.HIGH, "Level", "Level"),
    (Literal["a", 1], "a", 'Literal["a", 1]', '"a" | 1'),
]
"""Types of an app, a value, and the types in Python and in TypeScript."""

NAMES: Final = [f"echo {number}" for number in range(len(CASES))]


def app_of_echoes() -> WebSuckets:
    """Return an app with a command for each case, which returns its payload."""
    group = CommandGroup()
    for name, (hint, *_) in zip(NAMES, CASES, strict=True):

        def echo_of(hint: Any) -> Any:
            async def echo(socket: Socket, payload: Payload[hint]) -> hint:
                return payload

            return echo

        group.command(name)(echo_of(hint))
    return app_with(group)


APP: Final = app_of_echoes()
SOURCE: Final = source_of(APP)


def method(name: str) -> tuple[str, str]:
    """Return the types of the payload and the reply of a command, without rules of lengths."""
    head = rf"async def {name.replace(' ', '_')}\(\s*self,"
    rest = r"\s+payload: (.*?)(?: = None)?,\s+\*,?\s.*?\) -> (.*?):\n"
    match = re.search(head + rest, SOURCE, re.S)
    assert match is not None
    payload, reply = (re.sub(r"Annotated\[str, .*?\)\]", "str", text) for text in match.groups())
    return payload, reply


@pytest.mark.parametrize(
    ("name", "case"), list(zip(NAMES, CASES, strict=True)), ids=[str(case[0]) for case in CASES]
)
def test_the_type_is_that_of_the_format_in_both_directions(name: str, case: Any) -> None:
    assert method(name) == (case[2], case[2])


@pytest.mark.anyio
async def test_values_go_there_and_come_back() -> None:
    module = module_of(SOURCE)
    async with APP.serve("127.0.0.1", 0) as server:
        async with client_at(server.urls[0]) as client:
            api = module.Api(client)
            with anyio.fail_after(TIMEOUT):
                for name, (_, value, *_) in zip(NAMES, CASES, strict=True):
                    call = getattr(api, name.replace(" ", "_"))
                    got = await call(value)
                    sent = value
                    if isinstance(value, Enum):  # of which the client has its own class
                        sent = type(got)(value.value)
                    assert (got, type(got)) == (sent, type(sent)), name


def test_the_document_alone_gives_the_same_clients() -> None:
    document = APP.asyncapi()
    read = read_document(read_again(document))
    assert str(python_client(read)) == SOURCE
    assert str(typescript_client(read)) == str(typescript_client(read_document(document)))


def test_texts_and_numbers_of_a_format_are_texts_in_typescript() -> None:
    parts = {
        part.name: part.text for part in typescript_client(read_document(APP.asyncapi())).parts
    }
    for number, (hint, _, _, text) in enumerate(CASES):
        written = re.sub(r"\s+", " ", parts[f"Api.echo{number}"]).replace("( ", "(")
        assert re.search(rf"payload\??: {re.escape(text)}, ", written), hint
        assert f"Promise<{text}>" in written, hint


def schema_of(hint: Any, mode: str) -> Any:
    """Return the schema of what is received or sent, in the document of an app."""
    group = CommandGroup()

    @group.command("echo")
    async def echo(socket: Socket, payload: Payload[hint]) -> hint:
        return payload

    document = app_with(group).asyncapi()
    key = {"validation": "echo", "serialization": "echo.reply"}[mode]
    return document["components"]["messages"][key]["payload"]["properties"]["payload"]


def test_a_decimal_is_a_text_of_its_format_and_may_be_received_as_a_number() -> None:
    price = Annotated[Decimal, Field(ge=0, lt=100)]
    text = {"type": "string", "format": "decimal"}
    assert schema_of(price, "serialization") == text
    assert schema_of(price, "validation") == {
        "anyOf": [{"type": "number", "minimum": 0, "exclusiveMaximum": 100}, text],
        "format": "decimal",
    }


class Infinite(BaseModel):
    model_config = ConfigDict(allow_inf_nan=True)

    amount: Decimal


def test_a_decimal_that_may_be_infinite_has_no_format() -> None:
    """Expect none, because a client that reads a decimal of the format expects a number."""
    endless = Annotated[Decimal, Field(allow_inf_nan=True)]
    assert schema_of(endless, "serialization") == {"type": "string"}
    group = CommandGroup()

    @group.command("give")
    async def give(socket: Socket) -> Infinite: ...  # type: ignore[empty-body]  # never called

    source = source_of(app_with(group))
    assert "    amount: str\n" in source


class Price(BaseModel):
    amount: Decimal = Decimal("1.50")
    none: Decimal = 0  # type: ignore[assignment]  # pydantic does not check defaults
    half: Decimal = 0.5  # type: ignore[assignment]  # as above
    nothing: Decimal | None = None
    wrong: Decimal = "many"  # type: ignore[assignment]  # as above
    address: IPv4Address = IPv4Address("127.0.0.1")
    file: Path = Path("a/b")


def test_defaults_of_a_format_are_written_in_python() -> None:
    group = CommandGroup()

    @group.command("take")
    async def take(socket: Socket, price: Price) -> None: ...

    source = source_of(app_with(group))
    for line in (
        'amount: Decimal = Decimal("1.50")',
        'none: Decimal = Decimal("0")',
        'half: Decimal = Decimal("0.5")',
        "nothing: Decimal | None = None",
        'wrong: Omittable[Decimal] = None\n    """Default of the server: ``"many"``."""',
        'address: IPv4Address = IPv4Address("127.0.0.1")',
        'file: PurePosixPath = PurePosixPath("a/b")',
    ):
        assert f"    {line}\n" in source
    assert str(module_of(source).Price().amount) == "1.50"


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_any_decimal_is_sent_as_it_is(number: Decimal) -> None:
    made = module_of(DECIMALS).Exact(number=number)
    assert made.number == number
    assert made.model_dump(mode="json") == {"number": str(number)}


class Exact(BaseModel):
    number: Decimal


def _source_of_exact() -> str:
    group = CommandGroup()

    @group.command("take")
    async def take(socket: Socket, exact: Exact) -> None: ...

    return source_of(app_with(group))


DECIMALS: Final = _source_of_exact()
