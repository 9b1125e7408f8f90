"""Authorisation of protected commands.

``protected=True`` makes `CurrentUser` a guard: a dependency that is resolved before everything
else, and whose error is the reply. To authenticate differently, provide `CurrentUser` yourself.
"""

import hmac
import secrets
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import isawaitable, isgeneratorfunction, signature
from typing import Any, Final, TypeAlias

from dishka import Provider, Scope, provide

from websuckets.exc import (
    ClientError,
    ConfigurationError,
    Expired,
    HandshakeRefused,
    NotAuthorized,
)
from websuckets.introspection.functions import called, dressed, evaluated, own_kind, where
from websuckets.protocol.messages import Message
from websuckets.session import Session, User, UserId
from websuckets.socket import Socket

__all__ = [
    "CurrentUser",
    "HandshakeSecurityProvider",
    "Identity",
    "SecurityProvider",
    "Token",
    "authorised_user",
    "check_still_authorised",
    "identify",
    "resumed_user",
]

TOKEN_BYTES: Final = 16
"""Bytes of a token: RFC 6749, section 10.10, requires that guessing one succeeds with at most
2^-128."""


class Token(str):
    """A secret text, which its ``repr`` does not show."""

    __slots__ = ()

    @classmethod
    def generate(cls) -> "Token":
        """Return a new token of 128 random bits, as 32 hex digits."""
        return cls(secrets.token_hex(TOKEN_BYTES))

    def __repr__(self) -> str:
        return "Token(...)"


class CurrentUser(User):
    """The verified user who sent this message, as verified when it was checked (REQUEST scope).

    Resolving a `CurrentUser` raises `NotAuthorized` if the message is not authorised. ``id``,
    ``token`` and ``expires_at`` keep their values: a command that was authorised as one user
    continues as that user, whoever is verified on the connection meanwhile. Attributes that are set
    here are set on the connection's `User`, and all other attributes are read from that `User`; the
    two are equal. Once another user, or nobody, is verified on the connection, setting ``id``,
    ``token`` or ``expires_at`` raises `NotAuthorized`, but for ``id = None``, which then does
    nothing to the connection.

    Providers of `CurrentUser` return ``CurrentUser(user)``. A parameter ``CurrentUser | None`` gets
    the user or ``None``, and does not guard the command.
    """

    # One attribute is set faster than six, for each protected command.
    _seen: "_Seen"

    def __init__(self, user: User) -> None:
        _see(self, user._record)

    @property
    def id(self) -> UserId:
        """The id of the verified user.

        It is ``None`` only after it was set to ``None``, and where a provider of the program made a
        `CurrentUser` of somebody who is not verified; type checkers are not told of either.
        """
        return self._seen[2]  # type: ignore[return-value]  # see above

    @id.setter
    def id(self, id: UserId | None) -> None:
        if not self._is_over:
            self._set("id", id)
        elif id is None:
            record, verifications, _, token, expires_at = self._seen
            self._seen = (record, verifications, None, token, expires_at)
        else:
            raise NotAuthorized

    @property
    def token(self) -> str | None:
        return self._seen[3]

    @token.setter
    def token(self, token: str | None) -> None:
        self._set("token", token)

    @property
    def expires_at(self) -> float | None:
        return self._seen[4]

    @expires_at.setter
    def expires_at(self, moment: float | None) -> None:
        self._set("expires_at", moment)

    @property
    def _is_over(self) -> bool:
        return self._seen[0]._verifications != self._seen[1]

    @property
    def _record(self) -> User:
        return self._seen[0]

    def _set(self, name: str, value: Any) -> None:
        if self._is_over:
            raise NotAuthorized
        record = self._record
        setattr(record, name, value)
        self._seen = _seen_of(record)

    def __getattr__(self, name: str) -> Any:
        if name == "_seen":  # of an object that is being copied
            raise AttributeError(name)
        return getattr(self._seen[0], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _KEPT_HERE:
            object.__setattr__(self, name, value)
        else:
            setattr(self._record, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._record, name)


_KEPT_HERE: Final = {"id", "token", "expires_at", "_seen"}
"""Attributes that a `CurrentUser` has itself."""

_Seen: TypeAlias = tuple[User, int, UserId | None, str | None, float | None]
"""The connection's `User`, the number of its verifications, its id, its token and its
``expires_at``, as they were when a message was checked."""

_authorised: ContextVar[CurrentUser | None] = ContextVar("websuckets.current_user", default=None)

_new: Final = object.__new__
_set: Final = object.__setattr__  # without that of `CurrentUser`


def _seen_of(record: User) -> _Seen:
    return record, record._verifications, record._id, record._token, record._expires_at


def _see(user: CurrentUser, record: User) -> None:
    """Let ``user`` be the verified user of the current message, with what ``record`` has now."""
    # A copy of `_seen_of`, because every protected command runs this.
    seen = record, record._verifications, record._id, record._token, record._expires_at
    _set(user, "_seen", seen)
    _authorised.set(user)


def _verified_user(user: User) -> CurrentUser:
    """Return ``CurrentUser(user)``; a call of the class would take longer, by 3 % of a command.

    Raises `Expired` for a user whose time is over.
    """
    record = user if type(user) is User else user._record
    if record._expires_at is not None and record.has_expired:
        raise Expired
    verified = _new(CurrentUser)
    _see(verified, record)
    return verified


def check_still_authorised(socket: Socket) -> None:
    """Raise `NotAuthorized` in a message whose user is not verified on ``socket`` any longer.

    Raises it also in tasks that the message started; does nothing in a message that was not
    authorised, or that came by another connection.
    """
    user = _authorised.get()
    if user is not None:
        # A copy of `_is_over`, because every protected command runs this.
        if user._seen[0]._verifications != user._seen[1] and user._seen[0].socket is socket:
            raise NotAuthorized


def authorised_user(socket: Socket) -> CurrentUser | None:
    """Return the user as whom the current message of ``socket`` was authorised, if it was.

    Returns ``None`` also for a user that the message itself has logged out since. Raises
    `NotAuthorized` as `check_still_authorised` does.
    """
    check_still_authorised(socket)
    user = _authorised.get()
    is_user = user is not None and user.socket is socket and user.id is not None
    return user if is_user else None


class SecurityProvider(Provider):
    """Provider of `CurrentUser`: the connection's user, if the message carries that user's token.

    Tokens are compared in constant time. A user without an id or a token is not verified.
    """

    @provide(scope=Scope.REQUEST)
    def current_user(self, message: Message, user: User) -> CurrentUser:
        """Return the verified user. Raises `NotAuthorized`."""
        return _verified(message, user)


async def resumed_user(message: Message, user: User, session: Session) -> CurrentUser:
    """Return the verified user, who may be a saved user that continues with its token.

    ``message`` carries the token, and ``session`` looks up saved users.
    Raises `NotAuthorized`, and `Unavailable` while saved users cannot be looked up.
    """
    if user.id is None and message.token:
        await session.resume(user, message.token)
    return _verified(message, user)


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of a client, taken from its opening handshake."""

    id: UserId
    expires_at: float | None = None
    """Time at which the user stops being verified, in seconds since the epoch, as in `User`;
    ``None`` for never. With a time that is over, the handshake is answered with 403."""


@dataclass(frozen=True, slots=True)
class HandshakeRefusal:
    """Answer to clients who are not authorised at their handshake."""

    close_code: int | None

    def of(self, error: ClientError) -> Exception:
        """Return the error to raise instead of this one."""
        if self.close_code is None:
            return error
        return HandshakeRefused(403, str(error), close_code=self.close_code)


class HandshakeSecurityProvider(Provider):
    """Provider that verifies users once, at the handshake, by a cookie, a header or a subprotocol.

    ``authenticate`` is an async function whose parameters are dependencies, as in a REQUEST scope,
    ``request: websockets.http11.Request`` among them. ``authenticate`` returns an `Identity`, or
    ``None`` for a client who may run unprotected commands only; or it raises `NotAuthorized`, and
    the handshake is answered with 403. Messages then need no token; each protected command is
    refused once the time of its user is over.

    With a ``close_code``, such as 4401, a client who is not authorised is let in instead of getting
    403, and the connection is closed at once with that code: browsers do not show their programs
    the response to a handshake; see `HandshakeRefused`.

    Browsers send cookies whichever page connects, so an app with this provider does not start
    without ``WebSuckets(origins=[...])``.

    Raises `ValueError` for a code that is not from 3000 to 4999, and `ConfigurationError` for a
    function that cannot be one.
    """

    def __init__(self, authenticate: Callable[..., Any], *, close_code: int | None = None) -> None:
        super().__init__(scope=Scope.REQUEST)
        HandshakeRefused(close_code=close_code)  # raises where it is not one
        refusal = HandshakeRefusal(close_code)
        self.provide(_identifying(authenticate, refusal), provides=Identity | None)
        self.provide(lambda: refusal, provides=HandshakeRefusal)

    @provide
    def current_user(self, user: User) -> CurrentUser:
        """Return the verified user. Raises `NotAuthorized`."""
        if user.id is None:
            raise NotAuthorized
        return _verified_user(user)


def _identifying(authenticate: Callable[..., Any], refusal: HandshakeRefusal) -> Callable[..., Any]:
    """Return ``authenticate`` as an async function that dishka can read.

    Generator functions are returned as they are; they cannot have a close code.
    """
    if own_kind(authenticate) == "stream" or isgeneratorfunction(called(authenticate)):
        if refusal.close_code is not None:
            raise ConfigurationError(
                f"HandshakeSecurityProvider({where(authenticate)}, close_code=...): write an async "
                "function that returns the identity, instead of one that yields it"
            )
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
        try:
            result = authenticate(*arguments, **keywords)
            result = await result if isawaitable(result) else result
        except NotAuthorized as error:
            raise refusal.of(error) from error
        if not isinstance(result, Identity | None):
            raise TypeError(
                f"{where(authenticate)}: it returned an object of type {type(result).__qualname__};"
                " return Identity(user_id) or None"
            )
        return result

    return dressed(
        identity,
        authenticate,
        [p.replace(annotation=hints.get(p.name, p.empty)) for p in parameters],
    )


async def identify(
    user: User, identity: Identity | None = None, refusal: HandshakeRefusal | None = None
) -> None:
    """Verify the user at its handshake, as a hook, if anything provides an ``identity``.

    ``refusal`` says how a client is told that the time of its ``identity`` is over.
    """
    if identity is not None:
        try:
            user.id = identity.id
        except NotAuthorized:  # revoked since the identity was looked up
            return
        user.expires_at = identity.expires_at
        if user.has_expired:
            raise Expired if refusal is None else refusal.of(Expired())


def _verified(message: Message, user: User) -> CurrentUser:
    """Return the user if the message carries its token. Raises `NotAuthorized`."""
    known, given = user._token, message.token
    if user._id is None or not known or not given:
        raise NotAuthorized
    if known.isascii() and given.isascii():
        is_the_same = hmac.compare_digest(known, given)
    else:  # compare_digest refuses text that is not ASCII
        is_the_same = hmac.compare_digest(_as_bytes(known), _as_bytes(given))
    if not is_the_same:
        raise NotAuthorized
    return _verified_user(user)


def _as_bytes(token: str) -> bytes:
    return token.encode(errors="surrogatepass")
