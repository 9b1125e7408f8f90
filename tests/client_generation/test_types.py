"""Types of an app as the generated client writes them."""

import datetime as dt
import re
from collections.abc import Sequence
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import pytest
from generated_clients import module_of
from pydantic import BaseModel, ConfigDict, Field, SecretStr, WithJsonSchema, create_model
from typing_extensions import TypeAliasType, deprecated

from websuckets import ClientError, CommandGroup, Event, Payload, Socket, WebSuckets
from websuckets.channels import Channel
from websuckets.client_generation import python_client, read_document


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Bird(BaseModel):
    kind: Literal["bird"] = Field(alias="type")


class Fish(BaseModel):
    kind: Literal["fish"] = Field(alias="type")


class BlackCat(Cat):
    color: Literal["black"]


class WhiteCat(Cat):
    color: Literal["white"]


AnyCat = Annotated[BlackCat | WhiteCat, Field(discriminator="color")]

Kind = TypeAliasType("Kind", Literal["rat"])


class Rat(BaseModel):
    kind: Kind


Age = TypeAliasType("Age", Annotated[int | None, Field(description="Years.")])


class Color(Enum):
    RED = "red"


CAT = "#/components/schemas/Cat"


class Pair(NamedTuple):
    a: int
    b: str | None = None


def source_of(payload: Any, reply: Any = None, **options: Any) -> str:
    """Return the client of an app with one command, ``call it``."""
    group = CommandGroup()

    @group.command("call it", **options)
    async def handler(socket: Socket, payload: payload) -> reply: ...

    app = WebSuckets()
    app.include_command_group(group)
    return str(python_client(read_document(app.asyncapi())))


def payload_in(source: str) -> str:
    match = re.search(r"payload: (.*?)(?: = None)?,(?: \*|\n        \*)", source)
    assert match is not None, source
    return match[1]


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (int, "int"),
        (bool, "bool"),
        (bytes, "bytes"),
        (str | None, "str | None"),
        (int | UUID | None, "int | UUID | None"),
        (list[int], "list[int]"),
        (Sequence[int], "list[int]"),
        (set[int], "set[int]"),
        (frozenset[Color], "set[Color]"),
        (set[Pair], "set[Pair]"),
        (dict[str, list[int]], "dict[str, list[int]]"),
        (dict[Annotated[str, Field(pattern="^a$")], int], "dict[str, int]"),
        (dict, "dict[str, Any]"),
        (list, "list[Any]"),
        (tuple[int, str], "tuple[int, str]"),
        (tuple[int, ...], "list[int]"),
        (dt.datetime, "dt.datetime"),
        (dt.date | None, "dt.date | None"),
        (dt.timedelta, "dt.timedelta"),
        (UUID, "UUID"),
        (SecretStr, "str"),
        (Literal["a", 1, True], 'Literal["a", 1, True]'),
        (Literal["a"] | None, 'Literal["a"] | None'),
        (Cat | Dog, "Cat | Dog"),
        (
            Annotated[Cat | Dog, Field(discriminator="kind")],
            'Annotated[Cat | Dog, Field(discriminator="kind")]',
        ),
        (
            Annotated[Bird | Fish, Field(discriminator="kind")],
            'Annotated[Bird | Fish, Field(discriminator="type")]',
        ),
        (
            Annotated[Cat | Dog, Field(discriminator="kind")] | None,
            'Union[Annotated[Cat | Dog, Field(discriminator="kind")], None]',
        ),
        (
            Annotated[AnyCat | Dog, Field(discriminator="kind")],
            'Union[Annotated[BlackCat | WhiteCat, Field(discriminator="color")], Dog]',
        ),
        (Annotated[Rat | Dog, Field(discriminator="kind")], "Rat | Dog"),
        (set[Annotated[int, Field(ge=0)]], "set[Annotated[int, Field(ge=0)]]"),
        (Annotated[int, Field(ge=0, lt=9)], "Annotated[int, Field(ge=0, lt=9)]"),
        (
            Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=2)],
            "Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=2)]",
        ),
        (Any, "Any"),
        (int | Any, "Any"),
    ],
)
def test_a_payload_has_the_type_that_its_hint_has(hint: Any, text: str) -> None:
    source = source_of(Payload[hint])
    assert payload_in(source) == text
    module_of(source)


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({}, "Any"),
        ({"not": {"type": "string"}}, "Any"),
        ({"const": [1]}, "Any"),
        ({"allOf": [{"type": "string"}, {"minLength": 1}]}, "Any"),
        ({"type": ["string", "null"]}, "str | None"),
        ({"enum": [1.5, "a"]}, 'float | Literal["a"]'),
        ({"type": "array", "maxItems": 0}, "tuple[()]"),
        ({"type": "array", "prefixItems": [{"type": "integer"}]}, "list[Any]"),
        (
            {"type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "string"}},
            "list[int | str]",
        ),
        (
            {"type": "array", "prefixItems": [], "items": {"type": "string"}},
            "tuple[str, ...]",
        ),
        ({"type": "object", "additionalProperties": False}, "dict[str, Any]"),
        ({"type": "string", "format": "date-time", "minLength": 3}, "dt.datetime"),
        ({"type": "string", "format": "unheard of", "minLength": 3}, "str"),
        (
            {"type": "array", "uniqueItems": True, "items": {"type": "object"}},
            "list[dict[str, Any]]",
        ),
        (
            {"type": "array", "uniqueItems": True, "items": {"type": ["integer", "null"]}},
            "set[int | None]",
        ),
    ],
)
def test_a_schema_of_a_program_is_the_nearest_type(schema: Any, text: str) -> None:
    source = source_of(Payload[Annotated[Any, WithJsonSchema(schema)]])
    found = re.sub(r"Annotated\[str, .*\]", "str", payload_in(source))
    assert found.removesuffix(" | None") == text.removesuffix(" | None")
    module_of(source)


def test_defaults_that_do_not_fit_are_only_told() -> None:
    schemas = {
        "a": {"type": "string", "format": "date"},
        "b": {"type": "string", "format": "duration"},
        "c": {"type": "string", "format": "uuid"},
        "d": {"type": "string", "format": "ipv4"},
        "e": {"type": "integer"},
        "f": {"enum": ["a"]},
        "g": {"type": "array", "items": {"type": "integer"}},
        "h": {"type": "null"},
        "i": {"type": "object"},
    }
    fields: Any = {
        name: (Annotated[Any, WithJsonSchema(schema)], "never") for name, schema in schemas.items()
    }
    lines = fields_of(create_model("Never", **fields)).split("\n")
    assert lines[0] == "PartialModel"
    assert len(lines) == 1 + 2 * len(schemas)
    assert set(lines[2::2]) == {'"""Default of the server: ``"never"``."""'}
    assert all(line.endswith("= None") for line in lines[1::2])


def test_a_default_with_a_part_that_python_does_not_write_is_only_told() -> None:
    class Partly(BaseModel):
        a: tuple[int, Cat] = (1, Cat(kind="cat"))
        b: dict[str, Cat] = {"x": Cat(kind="cat")}
        c: Color = "blue"  # type: ignore[assignment]  # pydantic does not check defaults

    assert fields_of(Partly).split("\n") == [
        "PartialModel",
        "a: Omittable[tuple[int, Cat]] = None",
        '"""Default of the server: ``[1, {"kind": "cat"}]``."""',
        "b: Omittable[dict[str, Cat]] = None",
        '"""Default of the server: ``{"x": {"kind": "cat"}}``."""',
        "c: Omittable[Color] = None",
        '"""Default of the server: ``"blue"``."""',
    ]


def test_a_field_may_be_set_to_none_where_its_type_has_null() -> None:
    class Mixed(Enum):
        TEXT = "text"
        NOTHING = None

    class Partly(BaseModel):
        a: Annotated[int, Field(ge=0)] = Field(default_factory=lambda: 1)
        b: Age = Field(default_factory=lambda: 1)
        c: Color = Field(default_factory=lambda: Color.RED)
        d: Mixed = Field(default_factory=lambda: Mixed.TEXT)

    assert fields_of(Partly).split("\n") == [
        "PartialModel",
        "a: Omittable[Annotated[int, Field(ge=0)]] = None",
        "b: Age = None",
        "c: Omittable[Color] = None",
        "d: Mixed = None",
    ]


def test_types_within_a_list_that_begins_with_others_are_declared_before_it() -> None:
    schema = {"type": "array", "prefixItems": [{"type": "integer"}], "items": {"$ref": CAT}}

    class Owner(BaseModel):
        first: Cat
        others: Annotated[Any, WithJsonSchema(schema)]

    source = source_of(Owner)
    assert "    others: list[int | Cat]\n" in source
    assert source.index("class Cat(") < source.index("class Owner(")
    module_of(source)


def test_an_error_whose_name_ends_with_error_has_it_once() -> None:
    error = type("Gone", (ClientError,), {"error": "gone error"})
    source = source_of(Payload[int], raises=[error])
    assert "class GoneError(TypedError[Any]):" in source


def test_a_command_that_tells_nothing_has_one_line() -> None:
    group = CommandGroup()

    @group.command("wait", timeout=None)
    async def wait(socket: Socket) -> None: ...

    app = WebSuckets()
    app.include_command_group(group)
    source = str(python_client(read_document(app.asyncapi())))
    assert '"""Send the command ``wait``."""\n' in source


def test_many_events_of_a_channel_are_one_to_a_line() -> None:
    names = [f"quite_a_long_name_of_such_an_event_{number}" for number in range(3)]
    events = [type(Event)(name, (Event,), {"__module__": __name__}) for name in names]
    app = WebSuckets(channels=[Channel("many", events=events)])
    source = str(python_client(read_document(app.asyncapi())))
    classes = [f"QuiteALongNameOfSuchAnEvent{number}Event" for number in range(3)]
    lines = f"    {classes[0]}\n    | {classes[1]}\n    | {classes[2]},\n"
    assert f"ManyChannelEvent: TypeAlias = Annotated[\n{lines}" in source
    module_of(source)


def test_a_deprecated_model_is_told_to_type_checkers() -> None:
    @deprecated("Use Cat.")
    class Kitten(BaseModel):
        name: str

    source = source_of(Kitten)
    assert '@deprecated("Kitten is deprecated.")\nclass Kitten(BaseModel):' in source
    with pytest.warns(DeprecationWarning):
        module_of(source).Kitten(name="Tom")


def fields_of(model: type[BaseModel]) -> str:
    """Return the lines of a model, as it is sent, without its docstring and settings."""
    source = source_of(model)
    module_of(source)
    match = re.search(rf"^class {model.__name__}\((.*?)\):\n(.*?)\n\n\n", source, re.M | re.S)
    assert match is not None, source
    lines = [line.strip() for line in match[2].split("\n")]
    return "\n".join([match[1], *(line for line in lines if line and "model_config" not in line)])


def test_defaults_are_written_where_python_can_say_them() -> None:
    class Defaults(BaseModel):
        a: int = 1
        b: str | None = None
        c: list[str] = ["x"]
        d: set[int] = {1}
        e: dict[str, float] = {"a": 0.5}
        f: tuple[int, str] = (1, "a")
        g: Color = Color.RED
        h: dt.datetime = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
        i: dt.timedelta = dt.timedelta(0)
        j: UUID = UUID(int=0)
        k: bool = True
        m: Any = None
        n: Literal["a"] = "a"

    assert fields_of(Defaults).split("\n") == [
        "BaseModel",
        "a: int = 1",
        "b: str | None = None",
        'c: list[str] = ["x"]',
        "d: set[int] = {1}",
        'e: dict[str, float] = {"a": 0.5}',
        'f: tuple[int, str] = (1, "a")',
        "g: Color = Color.RED",
        'h: dt.datetime = dt.datetime.fromisoformat("2020-01-01T00:00:00Z")',
        "i: dt.timedelta = dt.timedelta()",
        'j: UUID = UUID("00000000-0000-0000-0000-000000000000")',
        "k: bool = True",
        "m: Any = None",
        'n: Literal["a"] = "a"',
    ]


def test_fields_whose_default_only_the_server_knows_may_be_left_out() -> None:
    class Partly(BaseModel):
        a: UUID = Field(default_factory=lambda: UUID(int=1))
        b: int | None = Field(default_factory=lambda: 1)
        c: Cat = Cat(kind="cat")
        d: int = None  # type: ignore[assignment]  # pydantic does not check defaults

    assert fields_of(Partly).split("\n") == [
        "PartialModel",
        "a: Omittable[UUID] = None",
        "b: int | None = None",
        "c: Omittable[Cat] = None",
        '"""Default of the server: ``{"kind": "cat"}``."""',
        "d: Omittable[int] = None",
    ]


def test_a_model_that_is_received_has_all_that_the_server_always_sends() -> None:
    class Always(BaseModel):
        a: int = 1
        b: list[str] = Field(default_factory=list)
        c: Literal["c"] = "c"
        d: int | None = None

    source = source_of(Always, Always)
    sent, received = (
        re.search(rf"^class Always{end}\((.*?)\):\n(.*?)\n\n\n", source, re.M | re.S)
        for end in ("Input", "Output")
    )
    assert sent is not None and received is not None
    assert "a: int = 1\n" in sent[2] and sent[1] == "PartialModel"
    lines = [line.strip() for line in received[2].split("\n")]
    assert lines == ["a: int", "b: list[str]", 'c: Literal["c"]', "d: int | None"]
    assert received[1] == "BaseModel"
    module_of(source)


def test_what_is_left_out_is_not_sent_and_a_null_that_was_set_is() -> None:
    class Partly(BaseModel):
        a: UUID = Field(default_factory=lambda: UUID(int=1))
        b: int | None = Field(default_factory=lambda: 1, alias="B")

    made = module_of(source_of(Partly)).Partly
    assert made().model_dump(by_alias=True) == {}
    assert made(a=None, b=None).model_dump_json(by_alias=True) == '{"B":null}'
    assert made(b=2).model_dump() == {"b": 2}


def test_fields_have_their_rules_their_secrets_and_their_words() -> None:
    class Ruled(BaseModel):
        a: str = Field(max_length=3, pattern=r"^\d+$", description="Digits.")
        b: SecretStr
        c: int = Field(deprecated=True)

    assert fields_of(Ruled).split("\n") == [
        "BaseModel",
        r'a: str = Field(max_length=3, pattern=r"^\d+$")',
        '"""Digits."""',
        "b: str = Field(repr=False)",
        "c: int = Field(deprecated=True)",
    ]


def test_a_pattern_that_only_the_server_can_check_is_told() -> None:
    class Ahead(BaseModel):
        model_config = ConfigDict(regex_engine="python-re")

        a: str = Field(pattern=r"^(?=a)\w+$", max_length=3)

    assert fields_of(Ahead).split("\n") == [
        "BaseModel",
        "a: str = Field(max_length=3)",
        r'"""The server holds it to the pattern ``^(?=a)\\w+$``."""',
    ]


def test_further_fields_are_kept_where_the_server_keeps_them() -> None:
    class Open(BaseModel, extra="allow"):
        __pydantic_extra__: dict[str, int] = Field(init=False)

        a: int

    source = source_of(Open)
    assert "Further fields are of the type ``int``." in source
    assert module_of(source).Open(a=1, b=2).model_dump() == {"a": 1, "b": 2}


def test_decimal_numbers_are_those_of_their_schema() -> None:
    positive = Annotated[Decimal, Field(ge=0)]
    for hint in (positive, Annotated[positive, Field(json_schema_extra={"format": "decimal"})]):
        source = source_of(Payload[hint], hint)
        assert payload_in(source) == "Annotated[Decimal, Field(ge=0.0)]"
        assert "-> Decimal:" in source
        module_of(source)


def test_errors_of_one_name_are_one_class_with_either_details() -> None:
    first = type("First", (ClientError,), {"error": "shut", "__annotations__": {"details": int}})
    second = type("Second", (ClientError,), {"error": "shut", "__annotations__": {"details": str}})
    group = CommandGroup()
    for name, error in {"a": first, "b": second}.items():

        async def handler(socket: Socket) -> None: ...

        group.command(name, raises=[error])(handler)
    app = WebSuckets()
    app.include_command_group(group)
    source = str(python_client(read_document(app.asyncapi())))
    assert "class ShutError(TypedError[int | str]):" in source
    assert "A_ERRORS: Final = (ShutError,)\nB_ERRORS: Final = (ShutError,)\n" in source


def test_events_of_one_name_in_several_channels_are_classes_of_their_own() -> None:
    class Told(Event):
        a: int

    class ToldElsewhere(Event, name="told"):
        b: int

    one, two = Channel("one", events=[Told]), Channel("two/{id}", events=[ToldElsewhere])
    group = CommandGroup()

    @group.command("watch", subscribes=[one, two])
    async def watch(socket: Socket) -> None: ...

    app = WebSuckets(channels=[one, two])
    app.include_command_group(group)
    source = str(python_client(read_document(app.asyncapi())))
    module = module_of(source)
    assert "class ToldEvent(ChannelEvent[Told]):" in source
    assert "class ToldEvent_(ChannelEvent[ToldElsewhere]):" in source
    adapter = module._WATCH_EVENTS
    assert adapter.validate_python({"event": "told", "payload": {"b": 1}}) == module.ToldEvent_(
        payload=module.ToldElsewhere(b=1)
    )
