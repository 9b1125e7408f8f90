"""Announcements from node to node of users who are not verified any more."""

import logging
from collections.abc import Iterable
from typing import Final, TypeAlias

import anyio
from pydantic_core import from_json, to_json

from websuckets.broker import Link
from websuckets.limits import Limits, limit_text
from websuckets.protocol.close_codes import REVOKED as CLOSE_REVOKED
from websuckets.runtime.tasks import Background
from websuckets.session import Session, User, UserId, close_unsure, is_user_id

__all__ = ["RevocationAnnouncements", "user_id_of"]

logger: logging.Logger = logging.getLogger("websuckets")

REVOKED: Final = b"revoked"
FORGOTTEN: Final = b"forgotten"
"""Kinds of announcements: of a user, and of one token of a user, by the key of its record."""

Verified: TypeAlias = tuple[User, UserId | None, str | None]
"""A user, and the id and token with which the user was verified."""


class RevocationAnnouncements:
    """Sender and receiver of announced revocations; lives as long as the app runs."""

    def __init__(
        self, session: Session, limits: Limits, background: Background, link: Link
    ) -> None:
        self._session = session
        self._lag = limits.revocation_lag
        self._start = background.start_soon
        self._link = link

    async def revoke(self, id: UserId) -> None:
        """Tell all other nodes that this user is revoked. Raises `Unavailable`."""
        await self._link.announce(b"\n".join((REVOKED, to_json(id))))

    async def forget(self, id: UserId, key: str) -> None:
        """Tell all other nodes that a token of this user is forgotten. Raises `Unavailable`."""
        await self._link.announce(b"\n".join((FORGOTTEN, to_json(id), key.encode())))

    def announced(self, announcement: bytes) -> None:
        """Carry out an announcement of another node. Raises `ValueError` if it is malformed."""
        match announcement.split(b"\n"):
            case [kind, id] if kind == REVOKED:
                for user in self._session._revoke_here(user_id_of(id)):
                    self._start(user.socket.close, *CLOSE_REVOKED)
            case [kind, id, key] if kind == FORGOTTEN:
                self._session._forget_here(user_id_of(id), key.decode())
            case _:
                raise ValueError("no announcement")

    def missed(self) -> None:
        """Have all verified users verify themselves again: any of them may have been revoked.

        After `Limits.revocation_lag`, which is how long a revoked user may stay, the connections
        are closed whose users still have the same id and token.
        """
        users = [(user, user.id, user.token) for user in self._session._all_verified()]
        if users and self._lag is not None:
            self._start(self._close_connections, users, self._lag)

    async def _close_connections(self, users: Iterable[Verified], after: float) -> None:
        await anyio.sleep(after)
        left = [user for user, *verified_as in users if [user.id, user.token] == verified_as]
        if left:
            logger.warning(
                "what other nodes revoked was lost: closing the connections of %d users who did "
                "not verify themselves again (%s)",
                *(len(left), limit_text("revocation_lag", after)),
            )
        for user in left:
            self._start(close_unsure, user)


def user_id_of(text: bytes) -> UserId:
    """Return the user id in this JSON. Raises `ValueError` for anything but a user id."""
    id = from_json(text)
    if not is_user_id(id):
        raise ValueError("no user's id")
    return id
