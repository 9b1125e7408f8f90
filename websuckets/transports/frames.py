"""Frames that are a whole message: RFC 6455, section 5.2. Pure: no connection, no event loop."""

import struct
from typing import Final

from websockets.frames import apply_mask  # type: ignore[attr-defined]  # the fastest implementation

from websuckets.protocol.transport import Texts

__all__ = ["binary_frame", "frames_of", "read_text", "text_frame"]

TEXT: Final = 0x81
BINARY: Final = 0x82
"""First byte of a frame: the FIN bit, no extension bits, and the opcode."""

MASKED: Final = 0x80
MASK_SIZE: Final = 4
SHORTEST: Final = 2 + MASK_SIZE
"""Bytes of a client's shortest frame: header and mask, without payload."""


def text_frame(payload: bytes) -> bytes:
    """Return a server's text frame with this payload."""
    return _header(TEXT, len(payload)) + payload


def frames_of(texts: Texts) -> bytes:
    """Return a server's text frames with these texts, which are made once."""
    if texts.frames is None:
        texts.frames = b"".join(map(text_frame, texts.texts))
    return texts.frames


def binary_frame(payload: bytes) -> bytes:
    """Return a server's binary frame with this payload."""
    return _header(BINARY, len(payload)) + payload


def _header(first: int, size: int) -> bytes:
    if size < 126:
        return bytes((first, size))
    if size < 1 << 16:
        return struct.pack("!BBH", first, 126, size)
    return struct.pack("!BBQ", first, 127, size)


def read_text(data: bytes, at: int, most: float) -> tuple[bytes, int] | None:
    """Return the text in the client's frame that begins at ``at``, and where the next frame begins.

    Return ``None`` for anything but the whole frame of a whole text, of at most ``most`` bytes and
    of less than 64 KiB.
    """
    if len(data) - at < SHORTEST or data[at] != TEXT:
        return None
    size = data[at + 1] ^ MASKED
    mask = at + 2
    if size == 126:
        size = data[mask] << 8 | data[mask + 1]
        mask += 2
    elif size > 126:  # a size of 64 bits, or a frame without a mask
        return None
    payload = mask + MASK_SIZE
    end = payload + size
    if end > len(data) or size > most:
        return None
    return apply_mask(data[payload:end], data[mask:payload]), end
