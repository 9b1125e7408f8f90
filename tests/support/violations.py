"""Frames that break the protocol, with the close code for each."""

from peers import BINARY, CLOSE, CONTINUATION, PING, close, compressed, fragments, frame, text
from target import MIB

BOMB = text(compressed(b" " * 50 * MIB), rsv=4)

PLAIN: dict[str, tuple[bytes, int]] = {
    "the first reserved bit": (text("{}", rsv=4), 1002),
    "the second reserved bit": (text("{}", rsv=2), 1002),
    "the third reserved bit": (text("{}", rsv=1), 1002),
    "an unknown data frame": (frame(3, b"a"), 1002),
    "an unknown control frame": (frame(0xB, b"a"), 1002),
    "not masked": (text("{}", masked=False), 1002),
    "a bare continuation": (frame(CONTINUATION, b"a"), 1002),
    "a message within a message": (text("{", fin=False) + text("{}"), 1002),
    "a fragmented ping": (frame(PING, b"a", fin=False), 1002),
    "a long ping": (frame(PING, b"a" * 126), 1002),
    "a fragmented close": (frame(CLOSE, b"\x03\xe8", fin=False), 1002),
    "a close code of one byte": (frame(CLOSE, b"a"), 1002),
    "a close code that is none": (close(999), 1002),
    "a close code that is never sent": (close(1005), 1002),
    "a close reason that is no UTF-8": (close(1000, b"\xff"), 1007),
    "no UTF-8": (text(b"\xff\xfe"), 1007),
    "half a character": (text(b"\xe2\x82"), 1007),
    "a surrogate": (text(b'{"event": "\xed\xa0\x80"}'), 1007),
    "no UTF-8, in fragments": (text(b"a", fin=False) + frame(CONTINUATION, b"\xff"), 1007),
    "too long": (text(b"a" * (64 * 1024 + 1)), 1009),
    "too long, and binary": (frame(BINARY, b"a" * (64 * 1024 + 1)), 1009),
    "too long, in fragments": (fragments(5, b"a" * 16 * 1024), 1009),
    "2^62 bytes, not sent": (text(b"a", length=1 << 62), 1009),
    "2^64 - 1 bytes, not sent": (text(b"a", length=(1 << 64) - 1), 1009),
}
"""Bytes that break the protocol, with the close code for each."""

DEFLATED: dict[str, tuple[bytes, int]] = {
    "a bomb": (BOMB, 1009),
    "a bomb in fragments": (BOMB[:1].replace(b"\xc1", b"\x41") + BOMB[1:], 1009),
    "no compressed data": (text(b"\xff" * 100, rsv=4), 1002),
    "a compressed ping": (frame(PING, b"a", rsv=4), 1002),
    "another reserved bit": (text(compressed(b"{}"), rsv=6), 1002),
    "no UTF-8, compressed": (text(compressed(b"\xff"), rsv=4), 1007),
    "too long by one byte": (text(compressed(b"a" * (64 * 1024 + 1)), rsv=4), 1009),
}
