"""Bytes that a client sends, in the chunks in which they arrive; for hypothesis."""

from collections.abc import Callable
from typing import Any, Final

from hypothesis import example, given, settings
from hypothesis import strategies as st
from peers import BINARY, CONTINUATION, PING, PONG, close, frame, text

__all__ = ["HANDSHAKE", "MOST", "any_chunks"]

MOST: Final = 300
"""Bytes of the longest message that a server accepts."""

HANDSHAKE: Final = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


EXAMPLES: Final[list[tuple[list[bytes], bool]]] = [
    ([text(b"a", fin=False), text(b"b")], True),
    ([text(b"a")[:3], text(b"a")[3:] + text(b"b")], True),
    ([b"\x81\x87\0\0\0\0", text(b"a")], True),  # a frame in a frame
    ([text(b"a") * 40], False),
    ([text(b"a") * 40], True),
    ([text(b"a"), frame(BINARY, b"b") + text(b"c")], True),
    ([text(b"\xff"), text(b"a")], True),
    ([close(1000), text(b"after")], True),
]


@st.composite
def chunked(draw: st.DrawFn) -> list[bytes]:
    """Draw the bytes of a client in chunks."""
    sizes = st.sampled_from([0, 1, 20, 125, 126, MOST, MOST + 1])
    texts = sizes.map(lambda size: text(b"x" * size))
    others = st.one_of(
        sizes.map(lambda size: text(b"x" * size, fin=False)),
        sizes.map(lambda size: frame(CONTINUATION, b"x" * size)),
        sizes.map(lambda size: frame(BINARY, b"x" * size)),
        st.sampled_from([frame(PING, b"ping"), frame(PONG), close(1000), text(b"\xff")]),
        st.sampled_from([text(b"x", rsv=4), text(b"x", masked=False), text(b"", length=2**62)]),
        st.binary(max_size=20),
    )
    data = b"".join(draw(st.lists(texts | texts | texts | others, min_size=1, max_size=24)))
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(data) - 1)), max_size=8)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def any_chunks(test: Callable[..., Any]) -> Callable[..., Any]:
    """Run a test with any ``chunks``; ``awaited`` says whether a task awaits them."""
    for chunks, awaited in EXAMPLES:
        test = example(chunks=chunks, awaited=awaited, debug=False)(test)
    given_chunks = given(chunks=chunked(), awaited=st.booleans(), debug=st.booleans())
    return settings(deadline=None)(given_chunks(test))
