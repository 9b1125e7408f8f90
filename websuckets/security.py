"""Who may run a protected command.

``protected=True`` makes `CurrentUser` a guard: a dependency that is resolved before everything
else, and whose error is the reply. To authenticate differently, provide `CurrentUser` yourself.
"""

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from inspect import isawaitable, isgeneratorfunction, signature
from typing import Any, Final, NewType

from dishka import Provider, Scope, provide

from websuckets.envelope import Message
from websuckets.exc import ConfigurationError, Expired, NotAuthorized
from websuckets.functions import called, dressed, evaluated, own_kind, where
from websuckets.session import Session, User, UserId

__all__ = [
    "CurrentUser",
    "HandshakeSecurityProvider",
    "Identity",
    "SecurityProvider",
    "Token",
    "identify",
    "resumed_user",
]

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
        return _verified(message, user)


async def resumed_user(message: Message, user: User, session: Session) -> CurrentUser:
    """The same for a provider that lets users who were saved go on with their tokens.

    Raises `NotAuthorized`, and `Unavailable` while that cannot be known.
    """
    if user.id is None and message.token:
        await session.resume(user, message.token)
    return _verified(message, user)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is, as its opening handshake shows."""

    id: UserId
    expires_at: float | None = None
    """The time at which it stops being verified, in seconds since the epoch as `time.time` has
    them; ``None`` for never. A time that is over answers the handshake with 403."""


class HandshakeSecurityProvider(Provider):
    """Verifies users once, at the opening handshake, by a cookie, a header or a subprotocol.

    ``authenticate`` is what tells them: an async function whose parameters are dependencies, as in
    a REQUEST scope, ``request: websockets.http11.Request`` among them. It returns an `Identity`, or
    ``None`` for nobody in particular, who may run what is not protected; or it raises
    `NotAuthorized`, which answers the handshake with 403. Messages need no token then; each is
    checked for whether the time of its user is over.

    Browsers send cookies whichever page connects, so an app with this provider does not start
    without ``WebSuckets(origins=[...])``.
    """

    def __init__(self, authenticate: Callable[..., Any]) -> None:
        super().__init__(scope=Scope.REQUEST)
        self.provide(_identifying(authenticate), provides=Identity | None)

    @provide
    def current_user(self, user: User) -> CurrentUser:
        """Raises `NotAuthorized`."""
        if user.id is None:
            raise NotAuthorized
        return _unless_expired(user)


def _identifying(authenticate: Callable[..., Any]) -> Callable[..., Any]:
    """Return it as an async function that dishka reads, whatever Python calls one."""
    if own_kind(authenticate) == "stream" or isgeneratorfunction(called(authenticate)):
        return authenticate
    parameters = signature(authenticate).parameters.values()
    try:
        hints = evaluated(
            {p.name: p.annotation for p in parameters if p.annotation is not p.empty}, authenticate
        )
    except NameError as error:
        raise ConfigurationError(
            f"HandshakeSecurityProvider({where(authenticate)}): {error}; import it where the "
            "function is defined"
        ) from None

    async def identity(*arguments: Any, **keywords: Any) -> Any:
        result = authenticate(*arguments, **keywords)
        return await result if isawaitable(result) else result

    return dressed(
        identity,
        authenticate,
        [p.replace(annotation=hints.get(p.name, p.empty)) for p in parameters],
    )


async def identify(user: User, identity: Identity | None = None) -> None:
    """The hook by which a handshake verifies its user, if anything provides an `Identity`."""
    if identity is not None:
        user.id = identity.id
        user.expires_at = identity.expires_at
        if user.has_expired:
            raise Expired


def _verified(message: Message, user: User) -> CurrentUser:
    """Raises `NotAuthorized`."""
    known, given = user.token, message.token
    if user.id is None or not known or not given:
        raise NotAuthorized
    if known.isascii() and given.isascii():
        is_the_same = hmac.compare_digest(known, given)
    else:  # which compare_digest refuses as text
        is_the_same = hmac.compare_digest(_as_bytes(known), _as_bytes(given))
    if not is_the_same:
        raise NotAuthorized
    return _unless_expired(user)


def _unless_expired(user: User) -> CurrentUser:
    if user.has_expired:
        raise Expired
    return CurrentUser(user)


def _as_bytes(token: str) -> bytes:
    return token.encode(errors="surrogatepass")
