"""Deadlines of a client: by when it has to be verified, and until when its user is."""

import math
from typing import Final, Protocol

from websuckets.connections.state import ConnectionState
from websuckets.protocol.close_codes import EXPIRED, NOT_VERIFIED, CloseReason
from websuckets.runtime.clock import Clock, Timeout
from websuckets.session import User

__all__ = ["VerificationDeadlines"]

FAR: Final = 1e12
"""Time that never comes, in seconds since the epoch."""


class Owner(Protocol):
    """The connection to which deadlines belong."""

    @property
    def is_waiting(self) -> bool:
        """False while a command runs, which may verify the client."""
        ...

    def close(self, reason: CloseReason) -> None:
        """Close the connection as soon as no command runs."""
        ...


class VerificationDeadlines:
    """Deadlines of the verification of one client, from its handshake until it is gone."""

    __slots__ = (
        "_clock",
        "_owner",
        "_state",
        "_timer",
        "_to_verify",
        "_user",
        "_verify_by",
        "may_be_over",
    )

    def __init__(
        self, user: User, clock: Clock, to_verify: Timeout, state: ConnectionState, owner: Owner
    ) -> None:
        self._user = user
        self._clock = clock
        self._to_verify = to_verify
        self._state = state
        self._owner = owner
        self._timer = clock.timer(self)
        self.may_be_over: bool = False
        """True once the time to be verified was over while a command ran: ask `is_over` then."""
        self._verify_by = to_verify.due()
        self._timer.by(self._verify_by, to_verify.step)

    def stop(self) -> None:
        """Check nothing from now on, because the client is gone."""
        self._timer.stop()

    def ring(self) -> None:
        """Close the connection if the client may not stay; else set the timer of the next check."""
        if self._state.close_reason is not None:
            return
        user = self._user
        if user.id is not None:
            self._verify_by = math.inf
        if user.has_expired:
            user.id = None
            self._owner.close(EXPIRED)
        elif self.is_over and self._owner.is_waiting:
            self._owner.close(NOT_VERIFIED)
        else:
            self.may_be_over = self.is_over
            self._check_later()

    def expiry_was_set(self) -> None:
        """Set the timer for a user who is verified for another time, or no longer from now on."""
        if self._user.id is not None:
            self._verify_by = self._to_verify.due()
            self._timer.by(self._verify_by, self._to_verify.step)
        self._check_later()

    @property
    def is_over(self) -> bool:
        """True if the client should have been verified by now, and is not."""
        return self._verify_by <= self._clock.now and self._user.id is None

    def _check_later(self) -> None:
        user, clock = self._user, self._clock
        if user.expires_at is not None:
            left = min(user.expires_at, FAR) - user._clock.time()
            self._timer.start(clock.timeout(max(left, 0)))
        if user.id is None:
            # If the client is overdue already, a command runs that may verify the client.
            step = self._to_verify.step
            self._timer.by(max(self._verify_by, clock.now + step), step)
