"""Connected users: who is connected, and as whom."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from time import time
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar
from uuid import UUID

import anyio

from websuckets.exc import NoCurrentSession, NotAuthorized
from websuckets.introspection.strings import plain_string
from websuckets.protocol.close_codes import REVOKED
from websuckets.runtime.event_loop import EventLoop
from websuckets.runtime.revocations import Revocations, current_handling
from websuckets.socket import Socket

__all__ = ["Session", "User"]

UserId = str | int
Key = TypeVar("Key")


class UserConnection(Protocol):
    """The connection of a `User`, as far as the verification of that user concerns it."""

    @property
    def handling_since(self) -> int | None:
        """The number of the last revocation from before the connection began what it handles now;
        ``None`` while the connection handles nothing."""
        ...

    def verification_ended(self) -> None:
        """End what the connection runs for the user that it was verified as."""
        ...

    def expiry_was_set(self) -> None:
        """Take note of `User.expires_at`."""
        ...


class User:
    """The record of one client, from the end of its handshake until it disconnects.

    ``socket`` is its connection, ``id`` the user's id once it is verified (not the connection's,
    which is ``socket.id``), ``token`` the secret that its protected commands must carry, and
    ``expires_at`` the time at which it stops being verified, in seconds since the epoch as
    `time.time` has them, or ``None`` for never. Any other attribute may be set, to be found again
    with the next message.

    Setting ``id`` verifies the user and enters it into `Session.verified` at once. Changing it from
    one value to another clears the token and the time; ``None`` clears all and takes the user out
    again. Either ends the protected streams of the connection, and the subscriptions to channels
    that it made as that user. When its time is over the connection is closed with 4401, as soon as
    no command runs.

    Setting ``id`` raises `NotAuthorized` if that user was revoked since the handler or hook of this
    connection began: what it has read of the user may be older than the revocation.
    """

    socket: Socket

    def __init__(self, socket: Socket, connection: UserConnection | None = None) -> None:
        self.socket = socket
        self._connection = connection
        self._id: UserId | None = None
        self._token: str | None = None
        self._expires_at: float | None = None
        self._session: Session | None = None  # while it is connected
        self._revocations: Revocations | None = None
        self._verifications = 0  # how often the id has changed
        self._saved_as: str | None = None  # the key of its record, if it has one

    @property
    def id(self) -> UserId | None:
        return self._id

    @id.setter
    def id(self, id: UserId | None) -> None:
        """Raises `TypeError` for what is neither ``str``, ``int`` nor ``None``, `ValueError` for a
        ``str`` that is no text (half of a surrogate pair), and `NotAuthorized` as said above."""
        if id is not None and (not isinstance(id, str | int) or isinstance(id, bool)):
            raise TypeError(f"User.id is a str, an int or None, not {type(id).__name__}")
        if isinstance(id, str):
            id = plain_string(id)
            id.encode()
        if id == self._id:
            return
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
        """Raises `TypeError` for what is neither ``str`` nor ``None``."""
        if token is not None and not isinstance(token, str):
            raise TypeError(f"User.token is a str or None, not {type(token).__name__}")
        if token != self._token:
            self._saved_as = None
        self._token = token

    @property
    def expires_at(self) -> float | None:
        return self._expires_at

    @expires_at.setter
    def expires_at(self, moment: float | None) -> None:
        """Raises `TypeError` for what is neither a number nor ``None``."""
        is_number = isinstance(moment, int | float) and not isinstance(moment, bool)
        if moment is not None and not is_number:
            raise TypeError(f"User.expires_at is a number or None, not {type(moment).__name__}")
        self._expires_at = moment
        if self._connection is not None:
            self._connection.expiry_was_set()

    @property
    def has_expired(self) -> bool:
        """Whether it was verified for a time that is over."""
        return self._expires_at is not None and self._expires_at <= time()

    @property
    def _record(self) -> "User":
        """The record itself, for what may be a `CurrentUser`."""
        return self

    @property
    def _is_over(self) -> bool:
        """Tell whether the connection is no longer verified as this user."""
        return False

    def __eq__(self, other: object) -> bool:
        """A `CurrentUser` equals the record that it was made of."""
        return isinstance(other, User) and self._record is other._record

    def __hash__(self) -> int:
        return object.__hash__(self._record)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(socket={self.socket.id}, id={self._id!r})"

    if TYPE_CHECKING:  # a program may add attributes of its own

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...


class SessionObserver(Protocol):
    """Who is told when users come and go. It lives as long as the session."""

    def verified(self, user: User, id: UserId) -> None:
        """This connection is that user's from now on."""
        ...

    def demoted(self, user: User, id: UserId) -> None:
        """It is not any more."""
        ...

    def left(self, user: User) -> None:
        """It is gone; it was demoted before, if it was verified."""
        ...


class SessionPersistence(Protocol):
    """What keeps verified users beyond their connections. It lives as long as the app runs."""

    async def save(self, user: User, data: dict[str, Any]) -> None: ...

    async def forget(self, user: User) -> None: ...

    async def revoke(self, id: UserId) -> None: ...

    async def resume(self, user: User, token: str) -> None: ...


class OtherNodes(Protocol):
    """Protocol that tells all other nodes of users who are no longer verified.

    An instance lives as long as the app runs. Each method raises `Unavailable` where some nodes
    may not hear of the change.
    """

    async def revoke(self, id: UserId) -> None: ...

    async def forget(self, id: UserId, key: str) -> None: ...


class _Index(Generic[Key]):
    """An index of `Session`: the instance's own, or on the class the current app's."""

    def __set_name__(self, owner: type["Session"], name: str) -> None:
        self._attribute = f"_{name}"

    def __get__(self, session: "Session | None", owner: type["Session"]) -> dict[Key, User]:
        index: dict[Key, User] = getattr(
            current_session() if session is None else session, self._attribute
        )
        return index


class Session:
    """Every client of one app; it lives as long as the app.

    ``online`` holds each connected client by the id of its connection; ``verified`` each verified
    user by its own id: of several connections of one user the newest, and when that one leaves, the
    one before it. Both are kept by the framework: read them, and set `User.id` to change them.

    Inject it (``session: Session``), or read ``Session.online`` on the class: inside handlers and
    providers that is the current app's; elsewhere that of the only running app, and
    `NoCurrentSession` where none or several run.
    """

    online: _Index[UUID] = _Index()
    verified: _Index[UserId] = _Index()

    def __init__(self) -> None:
        self._online: dict[UUID, User] = {}
        self._verified: dict[UserId, User] = {}
        self._connections_of: dict[UserId, dict[User, None]] = {}  # in the order of verification
        self._connecting: set[User] = set()  # may be verified, but are not in the indexes yet
        self._watchers: list[SessionObserver] = []
        self._loop: EventLoop | None = None  # while the app runs
        self._persistence: SessionPersistence | None = None
        self._revocations = Revocations()
        self._other_nodes: OtherNodes | None = None

    async def save(self, user: User, **data: Any) -> None:
        """Let this user go on with its token after its connection, here or on another node.

        ``data`` are attributes of the user that are kept with it, beside those that were saved
        before; they are set now, and again when it goes on. They are what JSON can hold.

        If it cannot be saved, a user who had not been before is verified no more: its client is
        told that it could not enter.

        Raises `ValueError` for a user without id or token, for attributes that a `User` has itself
        and for what JSON cannot hold (as infinite numbers), `RuntimeError` in an app without a
        `SessionStore`, `NotAuthorized` for a `CurrentUser` that is not verified any more, and
        `Unavailable`.
        """
        if user.id is None or not user.token:
            raise ValueError("session.save(user): it has no id or no token, and cannot go on")
        for name in data:
            if not may_be_added(name):
                raise ValueError(f"session.save(user, {name}=...): that is an attribute of its own")
        if user._is_over:
            raise NotAuthorized
        await self._kept.save(user._record, data)

    async def resume(self, user: User, token: str) -> None:
        """Verify a user by the token of one that was saved, if there is one.

        For whoever provides `CurrentUser`, as ``resumed_user`` in `websuckets.security`. Raises
        `Unavailable`, and a `ClientError` where too many tokens were unknown.
        """
        await self._kept.resume(user._record, token)

    async def forget(self, user: User) -> None:
        """Take back that it may go on with its token, and that it is verified.

        From this moment on the token is good for nothing on this node, and other connections with
        this token, on every node, are verified no more, either. Raises `RuntimeError` in an app
        without a `SessionStore`, and `Unavailable` if the token cannot be forgotten for now, which
        then is done as soon as it can be, or if other nodes may not hear of it.
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
        """Demote every connection of this user, on every node, and close it with 4401.

        What was saved of the user is forgotten, too. Raises `Unavailable` if that cannot be, or if
        other nodes may not hear of it; on this one it is done in any case.

        From this moment on no protected command of theirs is accepted, whatever still waits for an
        answer that was given before; who is still in its handshake enters without being verified.
        Returns when all are closed: a client that does not answer the closing handshake is waited
        for as long as the transport does (``close_timeout``, 10 seconds by default under
        ``websockets``).
        """
        self._check_loop()
        users = self._end_verification(user_id)
        self._revocations.add_own(user_id)
        error: Exception | None = None
        async with anyio.create_task_group() as closing:
            for user in users:
                closing.start_soon(user.socket.close, *REVOKED)
            # Others hear of it when it is stored: their clients will try their tokens again.
            for persistence in (self._persistence, self._other_nodes):
                if persistence is not None:
                    try:
                        await persistence.revoke(user_id)
                    except Exception as failure:
                        error = error or failure
        if error is not None:
            raise error

    def _revoke_here(self, user_id: UserId) -> list[User]:
        """Take note of a revocation that another node made.

        Return the users whose connections the caller has to close.
        """
        users = self._end_verification(user_id)
        self._revocations.add(user_id)
        return users

    def _end_verification(self, user_id: UserId) -> list[User]:
        """Verify nobody as this user any more; return the records of those who are connected."""
        users = list(self._connections_of.get(user_id, ()))
        for user in (*users, *(user for user in self._connecting if user.id == user_id)):
            user.id = None
        return users

    def _forget_here(self, id: UserId, key: str) -> None:
        """Demote every connection on this node whose token has this key."""
        self._revocations.add_forgotten()
        for user in (*self._connections_of.get(id, ()), *self._connecting):
            if user._saved_as == key:
                user.id = None

    def _all_verified(self) -> list[User]:
        """Every verified user of this node, also those who are still in their handshake."""
        users = (*self._online.values(), *self._connecting)
        return [user for user in users if user.id is not None]

    def __repr__(self) -> str:
        return f"Session(online={len(self._online)}, verified={len(self._verified)})"

    def _verify(self, user: User, id: UserId) -> None:
        self._connections_of.setdefault(id, {})[user] = None
        self._verified[id] = user
        for observer in self._watchers:
            observer.verified(user, id)

    def _demote(self, user: User, id: UserId) -> None:
        connections = self._connections_of[id]
        del connections[user]
        if connections:
            self._verified[id] = next(reversed(connections))
        else:
            del self._connections_of[id], self._verified[id]
        for observer in self._watchers:
            observer.demoted(user, id)


_OTHER_LOOP: Final = (
    "Session: the app runs in another event loop, and connections belong to that one: call this "
    "there, from a thread by anyio.from_thread or asyncio.run_coroutine_threadsafe"
)

_current: ContextVar[Session] = ContextVar("websuckets.session")
_running: list[Session] = []


def current_session() -> Session:
    """The session that `Session` itself stands for here. Raises `NoCurrentSession`."""
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
    """While the app of this session runs."""
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


def connecting(user: User, session: Session) -> None:
    """From now on this client may become `connected`, or else `not_connecting`."""
    user._revocations = session._revocations
    session._connecting.add(user)


def not_connecting(user: User, session: Session) -> None:
    session._connecting.discard(user)


def connected(user: User, session: Session) -> None:
    """This client is connected to the app of this session, until it is `disconnected`."""
    session._connecting.discard(user)
    user._session = session
    user._revocations = session._revocations
    session._online[user.socket.id] = user
    if user.id is not None:
        session._verify(user, user.id)


def disconnected(user: User) -> None:
    """The client is gone; does nothing if that is known already."""
    session = user._session
    if session is None:
        return
    del session._online[user.socket.id]
    if user.id is not None:
        session._demote(user, user.id)
    user._session = None
    for observer in session._watchers:
        observer.left(user)


def may_be_added(name: str) -> bool:
    """Whether a program may give this attribute to a `User`, and have it kept."""
    return name != "socket" and not name.startswith("_") and not hasattr(User, name)


def watch(session: Session, observer: SessionObserver) -> None:
    """From now on, it is told of every user of this session."""
    session._watchers.append(observer)


def connections_of(user_id: UserId, session: Session) -> tuple[User, ...]:
    """Every connection of this user, the newest last."""
    return tuple(session._connections_of.get(user_id, ()))
