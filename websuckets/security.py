"""Who may run a protected command.

``protected=True`` makes `CurrentUser` a guard: a dependency that is resolved before everything
else, and whose error is the reply. To authenticate differently, provide `CurrentUser` yourself.
"""

import hmac
import secrets
from typing import Final, NewType

from dishka import Provider, Scope, provide

from websuckets.envelope import Message
from websuckets.exc import NotAuthorized
from websuckets.session import User

__all__ = ["CurrentUser", "SecurityProvider", "Token"]

TOKEN_BYTES: Final = 16
"""128 bits: RFC 6749, section 10.10, asks that guessing a token succeed with at most 2^-128."""


class Token(str):
    """A secret text; its ``repr`` does not show it."""

    __slots__ = ()

    @classmethod
    def generate(cls) -> "Token":
        """A new token of 128 random bits, as 32 hex digits."""
        return cls(secrets.token_hex(TOKEN_BYTES))

    def __repr__(self) -> str:
        return "Token(...)"


CurrentUser = NewType("CurrentUser", User)
"""The verified user who sent this message (REQUEST scope). Resolving it raises `NotAuthorized`.

``CurrentUser | None`` is the same or ``None``, and guards nothing.
"""


class SecurityProvider(Provider):
    """Provides `CurrentUser`: the connection's user, if the message carries that user's token.

    Tokens are compared in constant time. A user without an id or a token is not verified.
    """

    @provide(scope=Scope.REQUEST)
    def current_user(self, message: Message, user: User) -> CurrentUser:
        """Raises `NotAuthorized`."""
        if user.id is None or not user.token or not message.token:
            raise NotAuthorized
        # As bytes: compare_digest refuses text outside ASCII.
        if not hmac.compare_digest(_as_bytes(user.token), _as_bytes(message.token)):
            raise NotAuthorized
        return CurrentUser(user)


def _as_bytes(token: str) -> bytes:
    return token.encode(errors="surrogatepass")
