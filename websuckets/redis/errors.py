"""Errors with which Redis answers, and the meaning of each for the node.

Redis has one form of refusal, an error that begins with a code, for very different things: a server
that cannot serve any more, a server that cannot serve for a moment, missing rights, a mistake of
this package. All code that talks to Redis asks this module for the meaning of an error.
"""

import enum
import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from coredis.exceptions import (
    AskError,
    AuthenticationError,
    AuthenticationFailureError,
    AuthorizationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    MovedError,
    ProtocolError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
    UnknownCommandError,
)
from coredis.exceptions import ConnectionError as NotConnected

__all__ = ["Meaning", "Refusals", "cause_of", "first_of", "meaning_of", "text_of"]

logger: logging.Logger = logging.getLogger("websuckets")


class Meaning(enum.Enum):
    """Consequence of an error."""

    LOST = "the connection is lost"
    ELSEWHERE = "this server cannot serve now: connect anew"
    NOT_NOW = "this cannot be done for a while; it heals by itself"
    MISCONFIGURED = "somebody has to change the URL, or the server's configuration"
    UNEXPECTED = "a mistake of ours"


CODES: Final = {
    "READONLY": Meaning.ELSEWHERE,
    "LOADING": Meaning.ELSEWHERE,
    "MASTERDOWN": Meaning.ELSEWHERE,
    "CLUSTERDOWN": Meaning.ELSEWHERE,
    "MOVED": Meaning.ELSEWHERE,
    "OOM": Meaning.NOT_NOW,
    "NOREPLICAS": Meaning.NOT_NOW,
    "MISCONF": Meaning.NOT_NOW,
    "BUSY": Meaning.NOT_NOW,
    "TRYAGAIN": Meaning.NOT_NOW,
    "ASK": Meaning.NOT_NOW,
    "NOAUTH": Meaning.MISCONFIGURED,
    "WRONGPASS": Meaning.MISCONFIGURED,
    "NOPERM": Meaning.MISCONFIGURED,
    "NOPROTO": Meaning.MISCONFIGURED,
    "CROSSSLOT": Meaning.MISCONFIGURED,
}
"""Meanings by the first word of the error."""

UNKNOWN_COMMAND: Final = "unknown command"

TAKEN_OFF: Final[tuple[tuple[type[RedisError], str], ...]] = (
    (MovedError, "MOVED"),
    (AskError, "ASK"),
    (AuthenticationFailureError, "WRONGPASS"),
    (AuthenticationError, "NOAUTH"),
    (AuthorizationError, "NOPERM"),
    (BusyLoadingError, "LOADING"),
    (ClusterCrossSlotError, "CROSSSLOT"),
    (ClusterDownError, "CLUSTERDOWN"),
    (ProtocolError, "NOPROTO"),
    (ReadOnlyError, "READONLY"),
    (TryAgainError, "TRYAGAIN"),
    (UnknownCommandError, UNKNOWN_COMMAND),
)
"""Codes that the client removes from the text, and shows by the class of the error instead."""

QUOTED: Final = (", with args", " script: ")
"""Start of the part of a text in which Redis quotes the sent command, or names our script."""

IN_A_SCRIPT: Final = re.compile(rf"(?:^|[\s:-])({'|'.join(CODES)})\b")
"""Pattern of a code, also in the text in which Redis 6 wraps the error of a script."""

RIGHTS_IN_A_SCRIPT: Final = re.compile(r"user executing the script can't|ACL failure in script")

SETTLED_AT_ONCE: Final = re.compile(
    r"DB index|SELECT is not allowed|AUTH .*without any password|Authentication required"
)
"""Errors without a code that are about the URL."""

REMEDIES: Final = {
    "NOAUTH": "write the password in the URL, redis://user:password@host",
    "WRONGPASS": "write the right user and password in the URL, redis://user:password@host",
    "NOPERM": "give this right to the user of the URL (ACL SETUSER)",
    "NOPROTO": "websuckets needs a server with RESP3, as Redis has it from 6.0 on",
    "HELLO": "websuckets needs a server with RESP3 (the command HELLO), as Redis has it from 6.0 "
    "on",
    UNKNOWN_COMMAND: "the server has to offer this command: it may be renamed or disabled",
}


def meaning_of(error: Exception) -> Meaning:
    """Return the meaning of an error that the client raised."""
    code = _code_of(error)
    if code == UNKNOWN_COMMAND:
        return Meaning.MISCONFIGURED
    if code is not None:
        return CODES[code]
    if isinstance(error, NotConnected):
        return Meaning.LOST
    if RIGHTS_IN_A_SCRIPT.search(str(error)) or SETTLED_AT_ONCE.search(str(error)):
        return Meaning.MISCONFIGURED
    return Meaning.UNEXPECTED


def text_of(error: Exception) -> str:
    """Return the error's text with its code, and its remedy where there is one.

    Arguments, which Redis quotes, are left out: a program or a client has sent them.
    """
    text = str(error)
    for addition in QUOTED:
        text = text.partition(addition)[0]
    code = _code_of(error)
    if code in CODES and code not in text:
        text = f"{code} {text}"
    remedy = REMEDIES.get("HELLO" if code == UNKNOWN_COMMAND and "HELLO" in text else code or "")
    return text if remedy is None else f"{text.rstrip('. ')}: {remedy}"


def first_of(error: BaseException) -> BaseException:
    """Return the error itself, or the first error of a group, which ended the others."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def cause_of(error: BaseException) -> str:
    """Return the texts of an error that ended or prevented a connection, and of its causes."""
    texts: list[str] = []
    cause: BaseException | None = error
    while isinstance(cause, Exception):
        texts.append(f"{type(cause).__name__}: {text_of(cause)}".removesuffix(": "))
        cause = cause.__cause__
    return "; ".join(texts)


def _code_of(error: Exception) -> str | None:
    for error_class, code in TAKEN_OFF:
        if isinstance(error, error_class):
            return code
    if not isinstance(error, RedisError) or isinstance(error, NotConnected):
        return None
    found = IN_A_SCRIPT.search(str(error))
    return None if found is None else found[1]


class Refusals:
    """A log of refusals by Redis, of each kind once in a heartbeat and ever more seldom.

    An instance lives as long as its `RedisConnection`. A kind of refusal that did not come for a
    heartbeat is logged at once when it comes again.
    """

    def __init__(self) -> None:
        self.count: int = 0
        self._heartbeats: Counter[str] = Counter()  # in a row, by kind
        self._kinds: set[str] = set()  # in this heartbeat

    def found(self, error: Exception) -> None:
        """Take note of an error that Redis answered with."""
        self.count += 1
        kind = _code_of(error) or type(error).__name__
        if kind in self._kinds:
            return
        self._kinds.add(kind)
        self._heartbeats[kind] += 1
        times = self._heartbeats[kind]
        if times & (times - 1) == 0:
            logger.error("Redis refuses: %s (heartbeat %d)", text_of(error), times)

    @contextmanager
    def tolerated(self) -> Iterator[None]:
        """Log an error of Redis; raise an error that means the end of this connection."""
        try:
            yield
        except RedisError as error:
            if meaning_of(error) in (Meaning.LOST, Meaning.ELSEWHERE):
                raise
            self.found(error)

    def beat(self) -> None:
        """Begin a heartbeat."""
        for kind in self._heartbeats.keys() - self._kinds:
            del self._heartbeats[kind]
        self._kinds.clear()
