"""Codes and reasons with which websuckets closes connections.

Codes are those of RFC 6455, section 7.4, and of the registry that this section sets up; codes from
4000 on are this framework's. Where the reason is made for the occasion, the code stands there:
1008 and 1011 for hooks that refuse or fail, 1009 for a message that is too big, 1011 for a failure
of the server.
"""

from typing import Final

from websockets import CloseCode

__all__ = [
    "CUT_SHORT",
    "EXPIRED",
    "NOT_VERIFIED",
    "NO_PONG",
    "RESTART",
    "REVOKED",
    "SLOW",
    "TOO_FAST",
    "TOO_MANY_REFUSALS",
    "TOO_MANY_UNKNOWN",
    "UNSURE",
    "CloseReason",
]

CloseReason = tuple[int, str]
"""Code and reason."""

RESTART: Final = (CloseCode.SERVICE_RESTART, "service restart")
"""Close reason when the server stops."""

SLOW: Final = (CloseCode.TRY_AGAIN_LATER, "reads too slowly")
"""Close reason for a client for which more waits than its outbox holds."""

UNSURE: Final = (CloseCode.TRY_AGAIN_LATER, "sessions unavailable")
"""Close reason when it cannot be known whether the user is still verified."""

TOO_MANY_UNKNOWN: Final = (CloseCode.POLICY_VIOLATION, "too many unknown commands")
CUT_SHORT: Final = (CloseCode.INTERNAL_ERROR, "message cut short")
"""Close reason after a message in fragments that was not sent to its end."""

NO_PONG: Final = (CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
REVOKED: Final = (4401, "revoked")
EXPIRED: Final = (4401, "expired")
TOO_MANY_REFUSALS: Final = (4401, "too many refused commands")
NOT_VERIFIED: Final = (4408, "not verified in time")
TOO_FAST: Final = (4429, "too many messages")
