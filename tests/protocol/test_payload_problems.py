"""Problems of a payload are told to its client: the first of them, and without the input."""

import json
from typing import Annotated, Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from payloads import Folder, Item
from pydantic import (
    AfterValidator,
    AnyUrl,
    Base64Bytes,
    BaseModel,
    ByteSize,
    ImportString,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from websuckets.commands.validation import PayloadValidator
from websuckets.exc import ClientError


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


def problems_of(payload_type: Any, payload: Any) -> list[dict[str, Any]]:
    with pytest.raises(ClientError) as caught:
        PayloadValidator(payload_type)(json.dumps({"payload": payload}))
    assert caught.value.__context__ is None  # a context would keep every problem in memory
    problems: list[dict[str, Any]] = caught.value.details
    return problems


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
