"""Tests of encoding and decoding frames, without any connection."""

import copy
import enum
import json
import math
import pickle
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, NotRequired
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    AnyUrl,
    Base64Bytes,
    BaseModel,
    ByteSize,
    ConfigDict,
    Discriminator,
    Field,
    ImportString,
    Tag,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)
from pydantic_core import PydanticCustomError, PydanticSerializationError, core_schema
from typing_extensions import TypedDict

from websuckets import ClientEvent, Message
from websuckets.commands.validation import PayloadValidator
from websuckets.exc import ClientError, InvalidMessage
from websuckets.protocol.messages import decode, encode_error, encode_event, encode_result

ids = st.none() | st.text(max_size=128) | st.integers(-(2**53), 2**53)
payloads = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


@given(event=st.text(), payload=payloads, token=st.none() | st.text(), id=ids, binary=st.booleans())
def test_a_command_is_decoded_as_it_was_sent(
    event: str, payload: Any, token: str | None, id: Any, binary: bool
) -> None:
    """Expect the command unchanged, whatever its names and payload."""
    content = {"event": event, "payload": payload, "token": token, "id": id}
    frame: str | bytes = json.dumps(content)
    if binary:
        frame = frame.encode()
    message, parsed = decode(frame)
    assert message == Message(event, token, id)
    assert parsed == payload


@given(event=st.text(), payload=payloads, id=ids, more=st.booleans())
def test_an_event_says_what_it_was_made_of(event: str, payload: Any, id: Any, more: bool) -> None:
    """Expect the same text with and without an id, whether encoded once or given an id later."""
    whole = {"event": event, "payload": payload}
    made = ClientEvent(event, payload)
    assert json.loads(made) == whole
    if id is not None:
        whole["id"] = id
    if more:
        whole["more"] = True
    text = encode_event(event, payload, id, more=more)
    assert json.loads(text) == whole
    assert encode_result("other", made, id, more=more) == text
    assert encode_result(event, payload, id, more=more) == text


@given(st.binary() | st.text())
def test_decoding_raises_nothing_but_invalid_message(frame: str | bytes) -> None:
    """Expect `InvalidMessage` or a command for any bytes."""
    try:
        decode(frame)
    except InvalidMessage as error:
        assert all(problem.keys() == {"loc", "msg", "type"} for problem in error.problems)


def test_numbers_too_large_for_a_float_are_found_at_any_depth() -> None:
    """Expect an error at any depth, and none for a number that only looks large."""
    for frame in (
        '{"event": "e", "payload": 1e999}',
        '{"event": "e", "payload": [[{"a": [-1e999]}]]}',
        '{"event": 1, "payload": {"a": 1e999}}',
    ):
        with pytest.raises(InvalidMessage) as caught:
            decode(frame)
        assert caught.value.problems[-1]["type"] == "finite_number"
    decode('{"event": "e", "nobody reads it": 1e999}')
    decode('{"event": "e", "payload": [1e308, "1e999", {"1e999": [null, true, []]}]}')


exponents = st.integers(-400, 400) | st.integers(300, 310)
written_numbers = st.builds(
    lambda sign, digits, fraction, exponent: f"{sign}{digits}{fraction}{exponent}",
    st.sampled_from(["", "-"]),
    st.integers(0, 9).map(str) | st.integers(1, 330).map(lambda length: "9" * length),
    st.sampled_from(["", ".0", ".5", "." + "3" * 40]),
    st.just("") | st.builds("{}{}".format, st.sampled_from("eE"), exponents),
)
written_values = st.recursive(
    written_numbers | st.sampled_from(["null", "true", '"1e999"', '"9E"', '"text"']),
    lambda values: (
        st.lists(values, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | values.map(lambda value: f'{{"1e999": "e", "a": {value}}}')
    ),
    max_leaves=6,
)


@given(payload=written_values, other=written_values, binary=st.booleans())
def test_a_payload_is_refused_if_a_number_of_it_is_read_as_infinity(
    payload: str, other: str, binary: bool
) -> None:
    """Expect what Python's own parser finds, with exponents and with hundreds of digits."""
    frame = f'{{"event": "e", "payload": {payload}, "nobody reads it": {other}}}'
    floats: list[float] = []
    json.loads(payload, parse_float=lambda text: floats.append(float(text)))
    try:
        decode(frame.encode() if binary else frame)
    except InvalidMessage as error:
        assert [problem["type"] for problem in error.problems] == ["finite_number"]
        assert math.inf in map(abs, floats)
    else:
        assert all(map(math.isfinite, floats))


def test_a_client_event_is_a_string_that_keeps_its_parts() -> None:
    """Expect the event to survive copying and pickling; its repr shows the name alone."""

    class Model(BaseModel):
        secret: str

    event = ClientEvent("created", Model(secret="canary"))
    assert event == '{"event":"created","payload":{"secret":"canary"}}'
    assert (event.event, event.payload) == ("created", Model(secret="canary"))
    assert repr(event) == "ClientEvent('created')"
    assert ClientEvent("empty") == '{"event":"empty","payload":null}'
    plain = ClientEvent("plain", [1])
    plain.payload.append(2)
    for other in (copy.copy(plain), copy.deepcopy(plain), pickle.loads(pickle.dumps(plain))):
        assert (type(other), other, other.event) == (ClientEvent, plain, "plain")
        assert (str(other), other.payload) == ('{"event":"plain","payload":[1]}', [1, 2])


def test_a_client_event_is_a_snapshot() -> None:
    """Expect changes of the payload after the event was made not to be sent."""
    payload = {"a": 1}
    event = ClientEvent("e", payload)
    payload["a"] = 2
    assert encode_result("", event, 1) == '{"event":"e","payload":{"a":1},"id":1}'


def test_what_has_no_json_form_cannot_become_an_event() -> None:
    """Expect pydantic's error."""
    with pytest.raises(PydanticSerializationError):
        ClientEvent("e", object())
    with pytest.raises(TypeError, match="the event is a str, not int"):
        ClientEvent(5)
    assert json.loads(ClientEvent("e", [math.inf, math.nan])) == {
        "event": "e",
        "payload": [None] * 2,
    }


def test_errors_on_the_wire() -> None:
    """Expect details in every error, and the id where the command had one."""
    assert encode_error("no", None, None) == '{"error":"no","details":null}'
    assert encode_error("no", [UUID(int=1)], "a") == (
        '{"error":"no","details":["00000000-0000-0000-0000-000000000001"],"id":"a"}'
    )


def test_a_message_does_not_show_its_token() -> None:
    """Expect no token in the repr of a message, which may be logged."""
    assert repr(Message("e", "canary", 1)) == "Message(event='e', id=1)"


def schema(**options: Any) -> Any:
    class WithSchema:
        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
            return core_schema.no_info_plain_validator_function(**options)

    return WithSchema


def email_like(value: str) -> str:
    raise PydanticCustomError(
        "value_error", "value is not a valid email address: {reason}", {"reason": value}
    )


CANARY = "canary"


@pytest.mark.parametrize(
    ("type", "value", "text"),
    [
        (UUID, CANARY, "Input should be a valid UUID"),
        (AnyUrl, f"http://{CANARY}:{CANARY}/", "Input should be a valid URL"),
        (ImportString, f"{CANARY}.{CANARY}", "Input should be a valid import path"),
        (ZoneInfo, CANARY, "Input should be a valid timezone"),
        (ByteSize, f"1 {CANARY}", "Input should have a valid byte unit"),
        (Base64Bytes, CANARY, "Input should be valid base64"),
        (schema(function=email_like), CANARY, "value is not a valid email address"),
        (
            dict[int, int],
            {CANARY: 1},
            "Input should be a valid integer, unable to parse string as an integer",
        ),
    ],
)
def test_the_texts_of_errors_do_not_quote_the_input(type: Any, value: Any, text: str) -> None:
    """Expect texts of our own where pydantic's would quote the input."""
    with pytest.raises(ClientError) as caught:
        PayloadValidator(type)(json.dumps({"payload": value}))
    (problem,) = caught.value.details
    assert problem["msg"] == text
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_an_error_of_the_programs_own_validator_keeps_its_text() -> None:
    """Expect the text that a validator of the program chose for the client."""

    def refuse(value: str) -> str:
        raise PydanticCustomError("too_rude", "be polite: {reason}", {"reason": "please"})

    with pytest.raises(ClientError) as caught:
        PayloadValidator(schema(function=refuse))('{"payload": 1}')
    assert caught.value.details == [{"loc": [], "msg": "be polite: please", "type": "too_rude"}]


def test_what_was_sent_does_not_stay_in_memory() -> None:
    """Expect only keys, and no values, in the parser's cache of strings."""
    frame = '{"event": "e", "token": "canary-token", "payload": "canary-payload"}'
    first, second = decode(frame)[0].token, decode(frame)[0].token
    assert first == second
    assert first is not second
    validate = PayloadValidator(str)
    assert validate(frame) is not validate(frame)


class Item(BaseModel):
    sku: str
    amount: int


class Folder(BaseModel):
    folders: "dict[str, Folder]" = {}
    items: list[Item] = []
    kind: Literal["a", "b"] = "a"


def problems_of(payload_type: Any, payload: Any) -> list[dict[str, Any]]:
    with pytest.raises(ClientError) as caught:
        PayloadValidator(payload_type)(json.dumps({"payload": payload}))
    assert caught.value.__context__ is None  # a context would keep every problem in memory
    problems: list[dict[str, Any]] = caught.value.details
    return problems


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


@settings(deadline=None)
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


@settings(max_examples=500, deadline=None)
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


@pytest.mark.parametrize("binary", [True, False])
def test_every_problem_of_a_small_payload_is_told(binary: bool) -> None:
    """Expect every problem in every item of a list, and of lists within lists."""
    payload = {"items": [{}, {"sku": "s", "amount": "x"}], "folders": {"f": {"items": [{}]}}}
    text = json.dumps({"payload": payload})
    with pytest.raises(ClientError) as caught:
        PayloadValidator(Folder)(text.encode() if binary else text)
    assert [problem["loc"] for problem in caught.value.details] == [
        ["folders", "f", "items", 0, "sku"],
        ["folders", "f", "items", 0, "amount"],
        ["items", 0, "sku"],
        ["items", 0, "amount"],
        ["items", 1, "amount"],
    ]


@pytest.mark.parametrize(
    ("payload_type", "payload"),
    [
        (list[Item], [{}] * 20_000),
        (tuple[Item, ...], [{}] * 20_000),
        (set[int], [[]] * 20_000),
        (dict[str, Item], {str(number): {} for number in range(5_000)}),
        (dict[int, int], {f"no {number}": 0 for number in range(5_000)}),
        (Folder, {"folders": {str(number): {"items": [{}]} for number in range(3_000)}}),
    ],
)
def test_of_a_large_payload_the_first_problems_are_told(payload_type: Any, payload: Any) -> None:
    """Expect the first problems and one more that says so: a bad message costs only its client."""
    *problems, last = problems_of(payload_type, payload)
    assert 1 <= len(problems) <= 32  # of a dict, the first versions of pydantic find all problems
    assert (last["loc"], last["type"]) == ([], "more_problems")


def test_more_problems_than_anybody_reads_are_not_told() -> None:
    """Test problems of items, and of keys that should not be there."""

    class Closed(BaseModel, extra="forbid"):
        pass

    for payload_type, payload in (
        (list[Item], [{}] * 100),
        (Closed, {str(number): 1 for number in range(5_000)}),
    ):
        problems = problems_of(payload_type, payload)
        assert len(problems) == 33
        assert {problem["type"] for problem in problems[:32]} <= {"missing", "extra_forbidden"}
        assert problems[32]["type"] == "more_problems"


def test_problems_do_not_repeat_long_keys_and_locations() -> None:
    """Expect long keys to be cut: a reply must not be a multiple of the message."""

    class Node(BaseModel):
        nodes: "dict[str, Node]" = {}
        refused: Any = None

        @field_validator("refused")
        @classmethod
        def refuse(cls, value: str) -> None:
            raise ValueError("no " * 1000)

    payload: dict[str, Any] = {"refused": 1}
    for _ in range(50):
        payload = {"nodes": {"k" * 1000: payload}}
    (problem,) = problems_of(Node, payload)
    assert problem["loc"] == ["nodes", "k" * 64] * 16
    assert len(problem["msg"]) == 512


def test_a_wrap_validator_sees_every_problem_of_what_it_wraps() -> None:
    """Expect the validator to see all problems, so that it can leave out any item."""

    def leave_out(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            wrong = {problem["loc"][0] for problem in error.errors()}
            return handler([item for at, item in enumerate(value) if at not in wrong])

    validate = PayloadValidator(dict[str, Annotated[list[int], WrapValidator(leave_out)]])
    assert validate('{"payload": {"a": ["x", 1, "y", 2]}}') == {"a": [1, 2]}


def test_a_validator_that_changes_its_mind_is_answered_with_its_first_word() -> None:
    """Expect that a payload refused once does not reach the handler."""
    asked = []

    def refuse_once(value: int) -> int:
        asked.append(value)
        if len(asked) == 1:
            raise ValueError("not yet")
        return value

    payload_type = list[Annotated[int, AfterValidator(refuse_once)]]
    assert [problem["msg"] for problem in problems_of(payload_type, [1])] == [
        "Value error, not yet"
    ]
    assert asked == [1, 1]
