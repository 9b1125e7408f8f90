"""The id of an invalid message, as far as the id can be read."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from websuckets.exc import InvalidMessage
from websuckets.protocol.messages import decode
from websuckets.protocol.refused_json import value_of

HALF = '"\\ud83d"'
"""Half of an emoji, as browsers encode one that was cut in the middle."""

DEEP = "[" * 300 + "]" * 300

FAULTS = [HALF, DEEP, "NaN", "-Infinity", "9" * 5000, f'{{"id": 8, "a": [{HALF}, {{"id": 9}}]}}']
"""Values that the parser refuses, and after which the object goes on."""

texts = st.text() | st.sampled_from(["id", '"id": 5', '{"id": 5}', "\\", '"', "]}", "\ud83d"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda children: st.lists(children) | st.dictionaries(texts, children),
    max_leaves=10,
)
objects = st.dictionaries(
    st.sampled_from(["event", "token", "payload", "i", "id ", '"id"']) | texts.filter("id".__ne__),
    values,
    max_size=5,
)
ids = st.text(max_size=128) | st.integers(-(2**53), 2**53)


def id_of(frame: str | bytes) -> Any:
    with pytest.raises(InvalidMessage) as caught:
        decode(frame)
    return caught.value.id


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_does_not_hide_the_id(fault: str) -> None:
    """The id is read wherever the fault is, and whether the frame is text or binary."""
    for frame in (
        '{"event": "e", "payload": %s, "id": 7}',
        '{"id": 7, "event": "e", "payload": %s}',
        ' {\n"id"\t:\r7 , "payload":%s } ',
        '{"\\u0069d": 7, "payload": %s}',
        '{"event": %s, "id": 7}',
        '{%s: 1, "id": 7}' if fault == HALF else '{"id": 7, "event": %s}',
    ):
        assert id_of(frame % fault) == 7
        assert id_of((frame % fault).encode()) == 7


@pytest.mark.parametrize(
    "frame",
    [
        '{"payload": {"id": 7}, "event": "e',
        '{"payload": "\\"id\\": 7, ", "event": NaN}',
        '{"payload": {"id": 7, "event": NaN}',
        '[{"id": 7}, NaN]',
        '"id": 7, NaN',
        'x{"id": 7, "event": NaN}',
        '{"event": NaN, "id": 7',
        '{"event": NaN, "id": "7',
        '{"event": NaN, "id" 7}',
        '{"event": NaN} "id": 7}',
        '{"event": NaN, , "id": 7}',
        '{"payload": [}, "id": 7]}',
        '{"payload": ], "id": 7}',
        '{"payload": ["], "id": 7}',
        '{"payload": [1, "id": 7',
        '{"payload": "a"b", "id": 7}',
        '{"id": 7.0, "event": NaN}',
        '{"id": true, "event": NaN}',
        '{"id": NaN}',
        '{"id": 9007199254740993, "event": NaN}',
        '{"id": [7], "event": NaN}',
        '{"id": {"id": 7}, "event": NaN}',
        '{"id": "%s", "event": NaN}' % ("i" * 129),
        '{"id": "%s", "event": NaN}' % ("i" * 5000),
        f'{{"id": {HALF}}}',
        '{"id": 7, "event": NaN, "id": null}',
        '{"event": NaN%s, "id": 7}' % (', "a": 1' * 64),
        '{"event": NaN, "payload": [%s], "id": 7}' % ('"",' * 10_000),
        b'{"id": "\xff", "event": 1}',
        "\ufeff" + '{"id": 7}',
        "",
    ],
)
def test_what_may_not_be_the_id_is_not_taken_for_it(frame: str | bytes) -> None:
    """A value is not the id if it is elsewhere, cut off, invalid, or behind the part that is
    read."""
    assert id_of(frame) is None


def test_of_several_ids_the_last_is_taken() -> None:
    """The last of several ids counts, as in a frame without a fault."""
    assert id_of('{"id": 1, "id": "a", "id": 7, "event": NaN}') == 7
    message, _ = decode('{"id": 1, "id": "a", "id": 7, "event": "e"}')
    assert getattr(message, "id") == 7  # noqa: B009  # it may be a `Cancel`, says its type


def test_an_id_in_front_of_a_fault_is_read_though_the_rest_cannot_be() -> None:
    """Read the id of a frame that was cut off."""
    assert id_of('{"id": 7, "payload": ["a", ') == 7
    assert id_of('{"id": 7, "payload": tru, ]') == 7
    assert id_of('{"id": 7, "payload": [%s]}' % ('"",' * 10_000)) == 7
    assert id_of('{"id": 7, ' + '"a": NaN, ' * 1000 + "}") == 7


@given(before=objects, id=ids, after=objects, fault=st.sampled_from(FAULTS), at=st.booleans())
@example({"a": "\\"}, '"', {}, HALF, True)
def test_the_id_of_any_refused_object_is_read(
    before: dict[str, Any], id: Any, after: dict[str, Any], fault: str, at: bool
) -> None:
    """The id is read whatever is around it, and no other value is taken for it."""
    members = [*before.items(), ("id", id), *after.items()]
    written = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in members]
    written.insert(0 if at else len(written), f'"fault": {fault}')
    assert id_of("{" + ", ".join(written) + "}") == id


@given(content=objects, id=ids, cut=st.integers(0), data=st.data())
def test_of_an_object_that_was_cut_off_no_wrong_id_is_read(
    content: dict[str, Any], id: Any, cut: int, data: st.DataObject
) -> None:
    """The id of an object that was cut off is the right one or None."""
    members = data.draw(st.permutations([*content.items(), ("id", id)]))
    frame = json.dumps(dict(members))
    assert value_of(frame[: cut % len(frame)], "id", 128) in (id, None)


@given(st.binary() | st.text('{}[]":,\\ id17eN') | st.text())
def test_nothing_is_raised_but_invalid_message(frame: str | bytes) -> None:
    """Try any characters."""
    value_of(frame, "id", 128)


def test_a_cancellation_that_is_wrong_is_answered_with_its_own_id() -> None:
    """An invalid cancellation is answered with its id, like any other message."""
    assert id_of('{"cancel": true, "id": 7}') == 7
    assert id_of('{"cancel": true, "id": true}') is None
