"""Hints: texts by which one node tells others of an event in the log of a channel."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from websuckets.history import LoggedEvent, Position, decode_hint, encode_hint

LINES = st.text(st.characters(codec="utf-8", exclude_characters="\n"))


@given(
    epoch=LINES.filter(bool),
    offset=st.integers(1, 10**18 - 1),
    excluded=LINES,
    frame=st.binary(),
)
@example(epoch="e", offset=1, excluded="", frame=b"")
@example(epoch="e", offset=1, excluded="", frame=b"\n\n\n{}\n")
@example(epoch="\x00", offset=10**18 - 1, excluded="\r", frame=b"\xff")
def test_a_hint_is_read_as_it_was_written(
    epoch: str, offset: int, excluded: str, frame: bytes
) -> None:
    event = LoggedEvent(offset, frame, excluded)
    assert decode_hint(encode_hint(Position(epoch, offset), event)) == (epoch, event)


def test_a_hint_has_the_form_that_logs_write_by_themselves() -> None:
    event = LoggedEvent(12, b'{"event":"a"}', "id")
    assert encode_hint(Position("epoch", 12), event) == b'epoch\n12\nid\n{"event":"a"}'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n\n\n",
        b"e",
        b"e\n1",
        b"e\n1\nid",
        b"\n1\nid\n{}",
        b"e\n\nid\n{}",
        b"e\n0\nid\n{}",
        b"e\n000\nid\n{}",
        b"e\n-1\nid\n{}",
        b"e\n+1\nid\n{}",
        b"e\n 1\nid\n{}",
        b"e\n1_0\nid\n{}",
        b"e\n1.0\nid\n{}",
        "e\n\u0661\nid\n{}".encode(),
        b"e\n" + b"1" * 19 + b"\nid\n{}",
        b"e\n" + b"1" * 5000 + b"\nid\n{}",
        b"\xff\n1\nid\n{}",
        b"e\n1\n\xff\n{}",
    ],
)
def test_a_text_that_no_node_has_written_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):  # its text is for nobody
        decode_hint(body)


@given(st.binary())
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        epoch, event = decode_hint(body)
    except ValueError:
        return
    assert epoch
    assert event.offset > 0
