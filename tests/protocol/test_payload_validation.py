"""Parsed JSON is validated as its text is, or its text is read where the two differ."""

import enum
import json
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, NotRequired
from uuid import UUID

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from payloads import Folder, payloads
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from typing_extensions import TypedDict

from websuckets.commands.validation import PayloadValidator
from websuckets.exc import ClientError
from websuckets.protocol.messages import decode


class Line(BaseModel):
    text: str
    number: int = 0
    share: float | None = None
    is_open: bool = False
    name: str = Field("", alias="other", max_length=3)


class Page(BaseModel):
    model_config = ConfigDict(extra="forbid")

    first: Line
    lines: list[Line] = []
    numbers: list[int | None] = []


numbers = (
    st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([1e300, -0.0])
)

scalars = st.none() | st.booleans() | numbers | st.text(max_size=4) | numbers.map(str)

lines = st.fixed_dictionaries(
    {"text": st.text() | scalars},
    optional={
        "number": scalars,
        "share": scalars | st.just(10**400),
        "is_open": scalars | st.sampled_from(["yes", "off", "1"]),
        "other": scalars,
        "more": scalars,
    },
)

pages = st.fixed_dictionaries(
    {"first": lines},
    optional={"lines": st.lists(lines), "numbers": st.lists(scalars), "more": scalars},
)


@given(
    payload=pages | lines | payloads, payload_type=st.sampled_from([Page, Line, list[Line], str])
)
def test_parsed_json_is_validated_as_its_text_is(payload: Any, payload_type: Any) -> None:
    """Expect parsed JSON to be accepted with the same result, or refused with the same problems."""
    check_both_ways(payload_type, json.dumps(payload))


def check_both_ways(payload_type: Any, payload: str) -> None:
    validate = validators[payload_type]
    assert validate._validate_parsed is not None
    frame = f'{{"event": "e", "payload": {payload}}}'
    try:
        expected = validate(frame)
    except ClientError as error:
        with pytest.raises(ValidationError):
            validate._validate_parsed(decode(frame)[1])
        with pytest.raises(ClientError) as caught:
            validate(frame, decode(frame)[1])
        assert caught.value.details == error.details
    else:
        assert repr(validate(frame, decode(frame)[1])) == repr(expected)


class Letter(enum.Enum):
    A = "a"
    B = "b"
    ONE = 1


class WithMissing(enum.Enum):
    A = "a"

    @classmethod
    def _missing_(cls, value: object) -> "WithMissing | None":
        return cls.A if value in (None, 2, "b") else None


class Number(enum.IntEnum):
    ONE = 1
    TWO = 2


@dataclass
class Point:
    x: int
    y: float | None = None


class TypedPoint(TypedDict):
    x: int
    y: NotRequired[str]


class Cat(BaseModel):
    kind: Literal["a"]
    x: int = 0


class Dog(BaseModel):
    kind: Literal["b"]
    x: str = ""
    y: list[int] = []


class Tree(BaseModel):
    x: int = 0
    y: "list[Tree]" = []


TAGGED: Any = Annotated[Cat | Dog, Field(discriminator="kind")]

validators: Final[Any] = {
    payload_type: PayloadValidator(payload_type)
    for payload_type in [
        *(
            Page,
            Line,
            list[Line],
            str,
            Letter,
            WithMissing,
            Number,
            UUID,
            date,
            datetime,
            time,
        ),
        *(TAGGED, Tree, Literal["a", 1, True], tuple[int, str], set[float]),
        *(
            tuple[UUID, ...],
            frozenset[str],
        ),
    ]
}

written_strings: Any = st.text(max_size=3) | st.sampled_from(
    [
        *("a", "b", "1", "1.0", "true", "on", " 1 ", "1_0", "inf", "10:00", "10:00:00.1+01:00"),
        *("12345678-1234-4678-9234-567812345678", "12345678123446789234567812345678"),
        *("2020-02-29", "2021-02-29", "2020-01-01T00:00:00", "2020-01-01 10:00Z", "1577836800"),
    ]
)

written_scalars: Any = (
    st.sampled_from(["null", "true", "false", "1e2", "-0", "1.5", "1e300", "1577836800", "1" * 25])
    | st.integers(-2, 2).map(str)
    | st.floats(allow_nan=False, allow_infinity=False).map(repr)
    | written_strings.map(json.dumps)
)


def written_objects(values: Any) -> Any:
    """Return a strategy of JSON objects, in which a key may come twice."""
    members = st.builds('"{}": {}'.format, st.sampled_from(["x", "y", "kind", "other"]), values)
    return st.lists(members, max_size=4).map(lambda some: f"{{{', '.join(some)}}}")


written_payloads: Any = st.recursive(
    written_scalars,
    lambda values: (
        st.lists(values, max_size=4).map(lambda items: f"[{', '.join(items)}]")
        | written_objects(values)
    ),
    max_leaves=6,
)


@settings(max_examples=500)
@given(
    payload=written_scalars | written_objects(written_scalars) | written_payloads,
    payload_type=st.sampled_from(list(validators)),
)
def test_parsed_json_of_any_type_is_validated_as_its_text_is(
    payload: str, payload_type: Any
) -> None:
    """Expect parsed JSON not to be preferred where its objects of Python make a difference."""
    assume(LAST_COUNTS or not has_a_key_twice(payload))
    check_both_ways(payload_type, payload)


def has_a_key_twice(payload: str) -> bool:
    """Tell whether any object in the JSON has two values of one key."""
    found: list[bool] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        found.append(len({key for key, _ in pairs}) < len(pairs))

    json.loads(payload, object_pairs_hook=look)
    return any(found)


def last_counts() -> bool:
    """Tell whether pydantic validates the last value alone of a key that comes twice."""
    try:
        Tree.model_validate_json('{"x": null, "x": 1}')
    except ValidationError:
        return False
    return True


LAST_COUNTS: Final = last_counts()
"""False for pydantic 2.10, which refuses a model for a value that another value replaces."""


class StrictFields(BaseModel):
    at: Annotated[date, Field(strict=True)]


class Extended(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]  # read by pydantic

    x: int


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)

    at: date


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class WithValidator(BaseModel):
    text: str

    @field_validator("text")
    @classmethod
    def check(cls, text: str, info: ValidationInfo) -> str:
        return f"{text} {info.mode}"


class WithInit(BaseModel):
    text: str

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)


@pytest.mark.parametrize(
    "payload_type",
    [
        *(Strict, Open, WithValidator, WithInit, Folder, StrictFields, Extended),
        *(
            bytes,
            Decimal,
            timedelta,
            Any,
            set,
            list,
            dict[str, str],
            Literal[Letter.A],
            Literal[None],
        ),
        *(
            UUID | str,
            Point,
            TypedPoint,
            Cat | Dog,
            int | str,
            bool | float | str,
            Cat | list[int],
            Cat | int,
            date | int,
            Letter | str,
            Point | TypedPoint,
            set[int] | list[int],
            Tree | int,
        ),
        Annotated[Cat, Tag("a")] | Dog,
        Annotated[
            Annotated[Cat, Tag("a")] | Annotated[Dog, Tag("b")], Discriminator(lambda value: "a")
        ],
    ],
)
def test_a_payload_whose_text_says_more_is_read_from_the_text(payload_type: Any) -> None:
    """Expect validation of the text for such payloads, such as fields for any object."""
    assert PayloadValidator(payload_type)._validate_parsed is None


def test_a_model_whose_build_is_deferred_is_built_when_its_command_is_read() -> None:
    """Expect the first message not to find a schema that is missing still."""

    class Deferred(BaseModel, defer_build=True):
        x: int

    assert PayloadValidator(Deferred)('{"payload": {"x": "1"}}') == Deferred(x=1)
