"""Who is connected, and as whom."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from time import time
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from uuid import UUID

import anyio

from websuckets.closing import REVOKED
from websuckets.exc import NoCurrentSession
from websuckets.socket import Socket
from websuckets.strings import plain_string

__all__ = ["Session", "User"]

UserId = str | int
Key = TypeVar("Key")


class User:
    """The record of one client, from the end of its handshake until it disconnects.

    ``socket`` is its connection, ``id`` the user's id once it is verified (not the connection's,
    which is ``socket.id``), ``token`` the secret that its protected commands must carry, and
    ``expires_at`` the time at which it stops being verified, in seconds since the epoch as
    `time.time` has them, or ``None`` for never. Any other attribute may be set, to be found again
    with the next message.

    Setting ``id`` verifies the user and enters it into `Session.verified` at once. Changing it from
    one value to another clears the token and the time; ``None`` clears all and takes the user out
    again. When its time is over the connection is closed with 4401, as soon as no command runs.
    """

    socket: Socket

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self._id: UserId | None = None
        self._token: str | None = None
        self._expires_at: float | None = None
        self._session: Session | None = None
        self._saved_as: str | None = None  # the key of its record, if it has one

    @property
    def id(self) -> UserId | None:
        return self._id

    @id.setter
    def id(self, id: UserId | None) -> None:
        """Raises `TypeError` for what is neither ``str``, ``int`` nor ``None``, and `ValueError`
        for a ``str`` that is no text (half of a surrogate pair)."""
        if id is not None and (not isinstance(id, str | int) or isinstance(id, bool)):
            raise TypeError(f"User.id is a str, an int or None, not {type(id).__name__}")
        if isinstance(id, str):
            id = plain_string(id)
            id.encode()
        if id == self._id:
            return
        if self._id is not None:
            self.token = None
            self.expires_at = None
            if self._session is not None:
                self._session._demote(self, self._id)
        self._id = id
        if id is not None and self._session is not None:
            self._session._verify(self, id)

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

    @property
    def has_expired(self) -> bool:
        """Whether it was verified for a time that is over."""
        return self._expires_at is not None and self._expires_at <= time()

    def __repr__(self) -> str:
        return f"User(socket={self.socket.id}, id={self._id!r})"

    if TYPE_CHECKING:  # a program may add attributes of its own

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...


class Watcher(Protocol):
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

    def revoked(self, id: UserId) -> None:
        """All connections of this user are demoted, and closed."""
        ...


class Keeper(Protocol):
    """What keeps verified users beyond their connections. It lives as long as the app runs."""

    async def save(self, user: User, data: dict[str, Any]) -> None: ...

    async def forget(self, user: User) -> None: ...

    async def revoke(self, id: UserId) -> None: ...

    async def resume(self, user: User, token: str) -> None: ...


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
        self._connections_of: dict[UserId, list[User]] = {}  # in the order of verification
        self._connecting: set[User] = set()  # may be verified, but are not in the indexes yet
        self._watchers: list[Watcher] = []
        self._keeper: Keeper | None = None
        self._revocations = 0  # that came to this node

    async def save(self, user: User, **data: Any) -> None:
        """Let this user go on with its token after its connection, here or on another node.

        ``data`` are attributes of the user that are kept with it, beside those that were saved
        before; they are set now, and again when it goes on. They are what JSON can hold.

        If it cannot be saved, a user who had not been before is verified no more: its client is
        told that it could not enter.

        Raises `ValueError` for a user without id or token and for attributes that a `User` has
        itself, `RuntimeError` in an app without a `SessionStore`, and `Unavailable`.
        """
        if user.id is None or not user.token:
            raise ValueError("session.save(user): it has no id or no token, and cannot go on")
        for name in data:
            if not may_be_added(name):
                raise ValueError(f"session.save(user, {name}=...): that is an attribute of its own")
        await self._kept.save(user, data)

    async def resume(self, user: User, token: str) -> None:
        """Verify a user by the token of one that was saved, if there is one.

        For whoever provides `CurrentUser`, as ``resumed_user`` in `websuckets.security`. Raises
        `Unavailable`, and a `ClientError` where too many tokens were unknown.
        """
        await self._kept.resume(user, token)

    async def forget(self, user: User) -> None:
        """Take back that it may go on with its token, and that it is verified.

        Raises `RuntimeError` in an app without a `SessionStore`, and `Unavailable`.
        """
        await self._kept.forget(user)

    @property
    def _kept(self) -> Keeper:
        if self._keeper is None:
            raise RuntimeError(
                "nothing keeps users beyond their connections: give ResumeProvider(), or "
                "RedisProvider(url, resume=True), to WebSuckets(providers=[...])"
            )
        return self._keeper

    async def revoke(self, user_id: UserId) -> None:
        """Demote every connection of this user, on every node, and close it with 4401.

        What was saved of the user is forgotten, too. Raises `Unavailable` if that cannot be, and
        other nodes may not have heard of it; on this one it is done in any case.

        From this moment on no protected command of theirs is accepted; who is still in its
        handshake enters without being verified. Returns when all are closed: a client that does not
        answer the closing handshake is waited for as long as the transport does (``close_timeout``,
        10 seconds by default under ``websockets``).
        """
        for watcher in self._watchers:
            watcher.revoked(user_id)
        error: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._revoke_here, user_id)
            if self._keeper is not None:
                try:
                    await self._keeper.revoke(user_id)
                except Exception as failure:
                    error = failure
        if error is not None:
            raise error

    async def _revoke_here(self, user_id: UserId) -> None:
        """On this node."""
        self._revocations += 1
        users = list(self._connections_of.get(user_id, ()))
        for user in (*users, *(user for user in self._connecting if user.id == user_id)):
            user.id = None
        async with anyio.create_task_group() as closing:
            for user in users:
                closing.start_soon(user.socket.close, *REVOKED)

    def __repr__(self) -> str:
        return f"Session(online={len(self._online)}, verified={len(self._verified)})"

    def _verify(self, user: User, id: UserId) -> None:
        self._connections_of.setdefault(id, []).append(user)
        self._verified[id] = user
        for watcher in self._watchers:
            watcher.verified(user, id)

    def _demote(self, user: User, id: UserId) -> None:
        connections = self._connections_of[id]
        connections.remove(user)
        if connections:
            self._verified[id] = connections[-1]
        else:
            del self._connections_of[id], self._verified[id]
        for watcher in self._watchers:
            watcher.demoted(user, id)


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
    try:
        yield
    finally:
        _running.remove(session)


class as_current(AbstractContextManager[None]):
    """In this task, and in those that it starts, `Session` stands for this one."""

    __slots__ = ("_session", "_token")  # each connection keeps one

    def __init__(self, session: Session) -> None:
        self._session = session

    def __enter__(self) -> None:
        self._token = _current.set(self._session)

    def __exit__(self, *error: object) -> None:
        _current.reset(self._token)


def connecting(user: User, session: Session) -> None:
    """From now on this client may become `connected`, or else `not_connecting`."""
    session._connecting.add(user)


def not_connecting(user: User, session: Session) -> None:
    session._connecting.discard(user)


def connected(user: User, session: Session) -> None:
    """This client is connected to the app of this session, until it is `disconnected`."""
    session._connecting.discard(user)
    user._session = session
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
    for watcher in session._watchers:
        watcher.left(user)


def may_be_added(name: str) -> bool:
    """Whether a program may give this attribute to a `User`, and have it kept."""
    return name != "socket" and not name.startswith("_") and not hasattr(User, name)


def watch(session: Session, watcher: Watcher) -> None:
    """From now on, it is told of every user of this session."""
    session._watchers.append(watcher)


def connections_of(user_id: UserId, session: Session) -> tuple[User, ...]:
    """Every connection of this user, the newest last."""
    return tuple(session._connections_of.get(user_id, ()))
