"""Connected users: who is connected, and as whom."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeGuard, TypeVar
from uuid import UUID

import anyio

from websuckets.clock import SYSTEM_CLOCK, WallClock
from websuckets.exc import NoCurrentSession, NotAuthorized
from websuckets.introspection.strings import plain_string
from websuckets.protocol.close_codes import REVOKED, UNSURE
from websuckets.runtime.event_loop import EventLoop
from websuckets.runtime.once import running_once
from websuckets.runtime.revocations import Revocations, current_handling
from websuckets.socket import Socket

__all__ = ["Session", "User"]

UserId = str | int
Key = TypeVar("Key")


def is_user_id(value: object) -> TypeGuard[UserId]:
    """Tell whether a value can be the id of a user: a ``str`` or an ``int`` that is not a bool."""
    return isinstance(value, str | int) and not isinstance(value, bool)


class UserConnection(Protocol):
    """The connection of a `User`: the part that the verification of its user needs."""

    @property
    def handling_since(self) -> int | None:
        """Number of the last revocation before the connection began to handle its current message;
        ``None`` while the connection handles nothing."""
        ...

    def verification_ended(self) -> None:
        """End the protected streams of a user as whom the connection is not verified any longer."""
        ...

    def expiry_was_set(self) -> None:
        """Take note of `User.expires_at`."""
        ...


class User:
    """The record of one client, from the end of its handshake until it disconnects.

    ``socket`` is the connection of the client, ``id`` the id of its user once verified (the id of
    the connection is ``socket.id``), ``token`` the secret that protected commands must carry, and
    ``expires_at`` the time at which the user stops being verified, in seconds since the epoch as
    `WallClock` tells it, or ``None`` for never. Any other attribute may be set, and is there again
    with the next message.

    Setting ``id`` verifies the user and enters it into `Session.verified` at once. Changing ``id``
    from one value to another clears ``token`` and ``expires_at``; ``None`` clears all three and
    removes the user from `Session.verified`. Either ends the protected streams of the connection,
    and the subscriptions to channels that it made as that user. When the time of the user is over
    the connection is closed with 4401, as soon as no command runs.

    Setting ``id`` raises `NotAuthorized` if that user was revoked since the handler or hook of this
    connection began: data of the user that the handler has read may be older than the revocation.
    """

    socket: Socket
    # An app with another clock sets it on each of its connected users; others save the memory.
    _clock: WallClock = SYSTEM_CLOCK

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self._connection: UserConnection | None = None  # set once the handshake begins
        self._id: UserId | None = None
        self._token: str | None = None
        self._expires_at: float | None = None
        self._session: Session | None = None  # set while the client is connected
        self._revocations: Revocations | None = None
        self._verifications = 0  # number of changes of the id
        self._saved_as: str | None = None  # the key of the user's record in a store, if any

    @property
    def id(self) -> UserId | None:
        return self._id

    @id.setter
    def id(self, id: UserId | None) -> None:
        """Verify the user as ``id``, or with ``None`` as nobody.

        Raises `TypeError` for an id that is not a ``str``, an ``int`` or ``None``, `ValueError` for
        a ``str`` that cannot be encoded (half of a surrogate pair), and `NotAuthorized` as the
        class describes.
        """
        if id is not None and not is_user_id(id):
            raise TypeError(f"User.id is a str, an int or None, not {type(id).__name__}")
        if isinstance(id, str):
            id = plain_string(id)
            id.encode()
        if id == self._id:
            return
        running_once.refuse("change the user of its connection")
        if id is not None and self._was_revoked_meanwhile(id):
            self._change_id(None)
            raise NotAuthorized
        self._change_id(id)

    def _was_revoked_meanwhile(self, id: UserId) -> bool:
        if self._revocations is None or self._connection is None:
            return False
        beside = current_handling()
        since = self._connection.handling_since if beside is None else beside.since
        return since is not None and self._revocations.came_after(since, id)

    def _change_id(self, id: UserId | None) -> None:
        was_verified = self._id is not None
        if self._id is not None:
            self.token = None
            self.expires_at = None
            if self._session is not None:
                self._session._demote(self, self._id)
        self._id = id
        self._verifications += 1
        if id is not None and self._session is not None:
            self._session._verify(self, id)
        if was_verified and self._connection is not None:
            self._connection.verification_ended()

    @property
    def token(self) -> str | None:
        return self._token

    @token.setter
    def token(self, token: str | None) -> None:
        """Set the token. Raises `TypeError` for one that is neither a ``str`` nor ``None``."""
        if token is not None and not isinstance(token, str):
            raise TypeError(
                f"User.token is a str or None, not {type(token).__name__}; Token.generate() makes "
                "one"
            )
        if token != self._token:
            self._saved_as = None
        self._token = token

    @property
    def expires_at(self) -> float | None:
        return self._expires_at

    @expires_at.setter
    def expires_at(self, moment: float | None) -> None:
        """Set the time. Raises `TypeError` for one that is neither a number nor ``None``."""
        is_number = isinstance(moment, int | float) and not isinstance(moment, bool)
        if moment is not None and not is_number:
            raise TypeError(f"User.expires_at is a number or None, not {type(moment).__name__}")
        self._expires_at = moment
        if self._connection is not None:
            self._connection.expiry_was_set()

    @property
    def has_expired(self) -> bool:
        """True if the user was verified for a time that is over."""
        moment = self.expires_at
        return moment is not None and moment <= self._record._clock.time()

    @property
    def _record(self) -> "User":
        """The connection's `User`: this object itself, unless it is a `CurrentUser`."""
        return self

    @property
    def _is_over(self) -> bool:
        """True if the connection is not verified as this user any longer."""
        return False

    def __eq__(self, other: object) -> bool:
        """Compare the records, so that a `CurrentUser` equals the `User` that it was made of."""
        return isinstance(other, User) and self._record is other._record

    def __hash__(self) -> int:
        return object.__hash__(self._record)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(socket={self.socket.id}, id={self.id!r})"

    if TYPE_CHECKING:  # a program may add attributes of its own

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...


class SessionObserver(Protocol):
    """An observer of users who come and go; the observer lives as long as the session."""

    def verified(self, user: User, id: UserId) -> None:
        """Take note that the connection of ``user`` is verified as ``id`` from now on."""
        ...

    def demoted(self, user: User, id: UserId) -> None:
        """Take note that the connection of ``user`` is not verified as ``id`` any longer."""
        ...

    def left(self, user: User) -> None:
        """Take note that the connection of ``user`` has ended; ``user`` was demoted before."""
        ...


class SessionPersistence(Protocol):
    """Persistence of verified users beyond their connections; it lives as long as the app runs."""

    async def save(self, user: User, data: dict[str, Any]) -> None:
        """Save the user with the attributes ``data``; raise `NotAuthorized` for a revoked user."""
        ...

    async def forget(self, user: User) -> None:
        """Log the user out and delete the record under its token, on every node."""
        ...

    async def revoke(self, id: UserId) -> None:
        """Delete all records of the user ``id``."""
        ...

    async def resume(self, user: User, token: str) -> None:
        """Verify the user by the record under ``token``, if there is one; else do nothing."""
        ...


class OtherNodes(Protocol):
    """Protocol that tells all other nodes of users who are not verified any longer.

    An instance lives as long as the app runs. Each method raises `Unavailable` where some nodes
    may not hear of the change.
    """

    async def revoke(self, id: UserId) -> None:
        """Tell that the user ``id`` was revoked."""
        ...

    async def forget(self, id: UserId, key: str) -> None:
        """Tell that the record of ``key``, of the user ``id``, was deleted."""
        ...


class _Index(Generic[Key]):
    """An index of `Session`: on an instance its own, on the class that of the current app."""

    def __set_name__(self, owner: type["Session"], name: str) -> None:
        self._attribute = f"_{name}"

    def __get__(self, session: "Session | None", owner: type["Session"]) -> dict[Key, User]:
        index: dict[Key, User] = getattr(
            current_session() if session is None else session, self._attribute
        )
        return index


class Session:
    """The clients of one app; a session lives as long as the app.

    ``online`` holds each connected client by the id of its connection; ``verified`` holds each
    verified user by its own id: of several connections of one user the one verified last, and when
    that connection ends, the one before it. The framework keeps both indexes: read them, and set
    `User.id` to change them.

    Inject the session (``session: Session``), or read ``Session.online`` on the class: inside
    handlers and providers this is the index of the current app; elsewhere it is the index of the
    only running app, and raises `NoCurrentSession` where none or several run.
    """

    online: _Index[UUID] = _Index()
    verified: _Index[UserId] = _Index()

    def __init__(self) -> None:
        self._online: dict[UUID, User] = {}
        self._verified: dict[UserId, User] = {}
        # In the order of verification; not of users with one connection, which nearly all have.
        self._several: dict[UserId, dict[User, None]] = {}
        self._connecting: set[User] = set()  # may be verified, but are not in the indexes yet
        self._observers: list[SessionObserver] = []
        self._loop: EventLoop | None = None  # set while the app runs
        self._persistence: SessionPersistence | None = None
        self._revocations = Revocations()
        self._other_nodes: OtherNodes | None = None
        self._clock: WallClock = SYSTEM_CLOCK  # of the app, while it runs

    async def save(self, user: User, **data: Any) -> None:
        """Save a user, who may then continue with its token on another connection of any node.

        ``data`` are attributes of the user that are kept with the user, beside attributes that were
        saved before; they are set now, and again when the user continues. Their values are what
        JSON can hold.

        If saving fails, a user who had not been saved before stops being verified, and the client
        gets the error.

        Raises `ValueError` for a user without id or token, for attributes that every `User` has and
        for values that JSON cannot hold (such as infinite numbers), `RuntimeError` in an app
        without a `SessionStore`, `NotAuthorized` for a `CurrentUser` that is not verified any more,
        and `Unavailable` while the user cannot be saved.
        """
        if user.id is None or not user.token:
            raise ValueError(
                "session.save(user): it has no id or no token; set user.id and user.token before"
            )
        for name in data:
            if not may_be_added(name):
                raise ValueError(f"session.save(user, {name}=...): that is an attribute of its own")
        if user._is_over:
            raise NotAuthorized
        await self._kept.save(user._record, data)

    async def resume(self, user: User, token: str) -> None:
        """Verify a user as the saved user with this token, if there is one.

        Providers of `CurrentUser` call this, such as ``resumed_user`` in `websuckets.security`.
        Raises `Unavailable`, and a `ClientError` where too many tokens were unknown.
        """
        await self._kept.resume(user._record, token)

    async def forget(self, user: User) -> None:
        """Demote a user, who can no longer continue with its token.

        The token is invalid on this node at once, and other connections with this token, on every
        node, are not verified any longer. Raises `RuntimeError` in an app without a `SessionStore`,
        and `Unavailable` if the store cannot forget the token for now, or if other nodes may not
        hear of the change; the store then forgets the token as soon as it can.
        """
        await self._kept.forget(user)

    def _check_loop(self) -> None:
        if self._loop is not None:
            self._loop.check(_OTHER_LOOP)

    @property
    def _kept(self) -> SessionPersistence:
        self._check_loop()
        if self._persistence is None:
            raise RuntimeError(
                "nothing keeps users beyond their connections: give ResumeProvider(), or "
                "RedisProvider(url, resume=True), to WebSuckets(providers=[...])"
            )
        return self._persistence

    async def revoke(self, user_id: UserId) -> None:
        """Demote every connection of the user ``user_id``, on every node, and close it with 4401.

        Records of the user in the `SessionStore` are forgotten, too. Raises `Unavailable` if the
        records cannot be forgotten, or if other nodes may not hear of the revocation; on this node
        the user is revoked in any case.

        Protected commands of the user are refused at once, even where code that is about to verify
        the user still waits for data; a client in its handshake connects without being verified.
        Returns when all connections of this node are closed: a client that does not answer the
        closing handshake is waited for as long as the transport does (``close_timeout``, 10 seconds
        by default under ``websockets``).
        """
        self._check_loop()
        users = self._end_verification(user_id)
        self._revocations.add_own(user_id)
        error: Exception | None = None
        async with anyio.create_task_group() as closing:
            for user in users:
                closing.start_soon(user.socket.close, *REVOKED)
            # Other nodes are told once the store knows: their clients will try their tokens again.
            for persistence in (self._persistence, self._other_nodes):
                if persistence is not None:
                    try:
                        await persistence.revoke(user_id)
                    except Exception as failure:
                        error = error or failure
        if error is not None:
            raise error

    def _revoke_here(self, user_id: UserId) -> tuple[User, ...]:
        """Take note of a revocation that another node made.

        Return the users whose connections the caller has to close.
        """
        users = self._end_verification(user_id)
        self._revocations.add(user_id)
        return users

    def _end_verification(self, user_id: UserId) -> tuple[User, ...]:
        """Demote every connection of this user; return the records of connected clients."""
        users = connections_of(user_id, self)
        for user in (*users, *(user for user in self._connecting if user.id == user_id)):
            user.id = None
        return users

    def _forget_here(self, id: UserId, key: str) -> None:
        """Demote every connection on this node whose token has this key."""
        self._revocations.add_forgotten()
        for user in (*connections_of(id, self), *self._connecting):
            if user._saved_as == key:
                user.id = None

    def _all_verified(self) -> list[User]:
        """Return the verified users of this node, including users still in their handshake."""
        users = (*self._online.values(), *self._connecting)
        return [user for user in users if user.id is not None]

    def __repr__(self) -> str:
        return f"Session(online={len(self._online)}, verified={len(self._verified)})"

    def _verify(self, user: User, id: UserId) -> None:
        if (before := self._verified.get(id)) is not None:
            self._several.setdefault(id, {before: None})[user] = None
        self._verified[id] = user
        for observer in self._observers:
            observer.verified(user, id)

    def _demote(self, user: User, id: UserId) -> None:
        if (connections := self._several.get(id)) is None:
            del self._verified[id]
        else:
            del connections[user]
            self._verified[id] = next(reversed(connections))
            if len(connections) == 1:
                del self._several[id]
        for observer in self._observers:
            observer.demoted(user, id)


_OTHER_LOOP: Final = (
    "Session: the app runs in another event loop, and connections belong to that one: call this "
    "there, from a thread by anyio.from_thread or asyncio.run_coroutine_threadsafe"
)

_current: ContextVar[Session] = ContextVar("websuckets.session")
_running: list[Session] = []


def current_session() -> Session:
    """Return the session that the class `Session` stands for here. Raises `NoCurrentSession`."""
    try:
        return _current.get()
    except LookupError:
        if len(_running) == 1:
            return _running[0]
    how_many = "several apps run" if _running else "no app runs"
    raise NoCurrentSession(
        "outside of handlers and providers, Session.online and Session.verified are those of the "
        f"only running app, but {how_many}; inject `session: Session` instead"
    )


@contextmanager
def running(session: Session) -> Iterator[None]:
    """Mark the app of this session as running for as long as the context lasts."""
    _running.append(session)
    session._loop = EventLoop()
    try:
        yield
    finally:
        session._loop = None
        _running.remove(session)


def context_of(session: Session) -> Context:
    """Make a copy of the current context in which `Session` stands for this one."""
    context = copy_context()
    context.run(_current.set, session)
    return context


@contextmanager
def as_current(session: Session) -> Iterator[None]:
    """Make `Session` stand for this session in the current task and in those that it starts."""
    token = _current.set(session)
    try:
        yield
    finally:
        _current.reset(token)


def connecting(user: User, session: Session, connection: UserConnection) -> None:
    """Take note that this client is in its handshake, until `connected` or `not_connecting`.

    ``connection`` is told of changes of the user from now on.
    """
    user._connection = connection
    _belongs_to(user, session)
    session._connecting.add(user)


def not_connecting(user: User, session: Session) -> None:
    session._connecting.discard(user)


def connected(user: User, session: Session) -> None:
    """Enter this client into the session, until it is `disconnected`."""
    session._connecting.discard(user)
    user._session = session
    _belongs_to(user, session)
    session._online[user.socket.id] = user
    if user.id is not None:
        session._verify(user, user.id)


def _belongs_to(user: User, session: Session) -> None:
    user._revocations = session._revocations
    if session._clock is not user._clock:
        user._clock = session._clock


def disconnected(user: User) -> None:
    """Remove the client from its session; do nothing if the client was removed already."""
    session = user._session
    if session is None:
        return
    user._session = None  # first: another call does nothing, even if an observer raises here
    del session._online[user.socket.id]
    if user.id is not None:
        session._demote(user, user.id)
    for observer in session._observers:
        observer.left(user)


def may_be_added(name: str) -> bool:
    """Return whether a program may give this attribute to a `User`, and have it saved."""
    return name != "socket" and not name.startswith("_") and not hasattr(User, name)


def watch(session: Session, observer: SessionObserver) -> None:
    """Add an observer of the users of this session."""
    session._observers.append(observer)


def connections_of(user_id: UserId, session: Session) -> tuple[User, ...]:
    """Return every connection of this user, the one verified last at the end."""
    if user_id in session._several:
        return tuple(session._several[user_id])
    return (session._verified[user_id],) if user_id in session._verified else ()


async def close_unsure(user: User) -> None:
    """Close the connection of a user of whom nobody can tell whether they were revoked.

    Until then the user stays verified: a command that came before the close frame was written would
    be refused, though its client has done nothing wrong.
    """
    user.id = None
    await user.socket.close(*UNSURE)
