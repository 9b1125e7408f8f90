"""Authentication of a client: its token, its user, and the function that runs before all else."""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any, Final

from websuckets.client.calls import UNKNOWN_USER
from websuckets.client.session import Session

__all__ = ["Authenticate", "Authentication", "Credentials"]

_session: Final[ContextVar[Session | None]] = ContextVar("_session", default=None)
"""Session for which the code that runs authenticates; its commands do not wait in the queue."""


@dataclass(frozen=True)
class Credentials:
    """Result of ``authenticate``: the token of later commands, and the user whose token it is.

    The ``user`` is anything that tells users apart. Where it changes, commands that another user
    has called, and that have no reply yet, fail with `UserChanged`.
    """

    token: str | None = field(default=None, repr=False)
    user: Any = None


Authenticate = Callable[[], Awaitable[str | Credentials | None] | str | Credentials | None]


class Authentication:
    """The token and the user of a client.

    ``function`` is that of the program, if there is one. ``on_user`` is called with a user who is
    signed in from then on.
    """

    def __init__(self, function: Authenticate | None, on_user: Callable[[Any], None]) -> None:
        self._function = function
        self._on_user = on_user
        self._token: str | None = None
        self._user: Any = UNKNOWN_USER
        self._has_new_token = False

    @property
    def token(self) -> str | None:
        return self._token

    @token.setter
    def token(self, token: str | None) -> None:
        self._token = token
        self._has_new_token = True

    @property
    def user(self) -> Any:
        """The user, or `UNKNOWN_USER`."""
        return self._user

    @user.setter
    def user(self, user: Any) -> None:
        self._user = user
        self._on_user(user)

    @property
    def can_change(self) -> bool:
        """True where the next connection may have another token than the present one."""
        return self._function is not None or self._has_new_token

    def begin(self) -> None:
        """Take note that the present token is that of a new connection."""
        self._has_new_token = False

    def runs_for(self, session: Session) -> bool:
        """Tell whether the code that runs was called to authenticate on this connection."""
        return _session.get() is session

    async def run(self, session: Session) -> None:
        """Call the function of the program, and take its result. Raises its errors."""
        if self._function is None:
            return
        reset = _session.set(session)
        try:
            result: Any = self._function()
            if isawaitable(result):
                result = await result
        finally:
            _session.reset(reset)
        if isinstance(result, Credentials):
            self._token = result.token
            self.user = result.user
        elif isinstance(result, str):
            self._token = result
        elif result is not None:
            kind = type(result).__name__
            raise TypeError(f"authenticate returns a token, Credentials or None, not a {kind}")
