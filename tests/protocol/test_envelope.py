"""Tests of encoding and decoding frames, without any connection."""

import copy
import json
import math
import pickle
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from payloads import payloads
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from websuckets import ClientEvent, Message
from websuckets.commands.validation import PayloadValidator
from websuckets.exc import InvalidMessage
from websuckets.protocol.messages import decode, encode_error, encode_event, encode_result

ids = st.none() | st.text(max_size=128) | st.integers(-(2**53), 2**53)


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


@given(key=st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=128))
def test_a_key_is_decoded_as_it_was_sent(key: str) -> None:
    message, _ = decode(json.dumps({"event": "e", "key": key, "id": 1}))
    assert message == Message("e", id=1, key=key)
    assert key not in repr(message) or key in repr(Message("e", id=1))


@pytest.mark.parametrize("key", ["", "k" * 129, "a\0b", 1, True, [], {}, 1.5])
def test_a_key_that_cannot_be_one_is_refused(key: Any) -> None:
    """Expect an invalid message, which says so with the id of the command and without the key."""
    with pytest.raises(InvalidMessage) as caught:
        decode(json.dumps({"event": "e", "key": key, "id": 1}))
    assert caught.value.id == 1
    (problem,) = caught.value.problems
    assert (problem["loc"], problem["type"]) == (["key"], "key_type")


@pytest.mark.parametrize("key", ["payload", "token", "id", "key", "since"])
def test_null_is_the_same_as_leaving_a_key_out(key: str) -> None:
    assert decode(json.dumps({"event": "e", key: None})) == (Message("e"), None)


@pytest.mark.parametrize("content", [{"event": None}, {"event": None, "ping": 1}])
def test_an_event_of_null_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode(json.dumps(content))
    (problem,) = caught.value.problems
    assert (problem["loc"], problem["type"]) == (["event"], "string_type")


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_json_may_have_200_levels(opening: str, closing: str) -> None:
    """Expect the message itself to be one of them, and one more to be an invalid message."""
    for levels, is_refused in (199, False), (200, True):
        payload = f"{opening * levels}1{closing * levels}"
        frame = f'{{"event":"e","payload":{payload}}}'
        if is_refused:
            with pytest.raises(InvalidMessage):
                decode(frame)
        else:
            assert decode(frame)[0] == Message("e")


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


def test_an_error_has_details_and_the_id_of_its_command() -> None:
    """Expect details in every error, and the id where the command had one."""
    assert encode_error("no", None, None) == '{"error":"no","details":null}'
    assert encode_error("no", [UUID(int=1)], "a") == (
        '{"error":"no","details":["00000000-0000-0000-0000-000000000001"],"id":"a"}'
    )


def test_a_message_does_not_show_its_token() -> None:
    """Expect no token in the repr of a message, which may be logged."""
    assert repr(Message("e", "canary", 1)) == "Message(event='e', id=1)"


def test_what_was_sent_does_not_stay_in_memory() -> None:
    """Expect only keys, and no values, in the parser's cache of strings."""
    frame = '{"event": "e", "token": "canary-token", "payload": "canary-payload"}'
    first, second = decode(frame)[0].token, decode(frame)[0].token
    assert first == second
    assert first is not second
    validate = PayloadValidator(str)
    assert validate(frame) is not validate(frame)
