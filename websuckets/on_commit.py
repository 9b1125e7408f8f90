"""Effects of a message that happen only if its transaction commits: `OnCommit`."""

from collections.abc import Callable, Coroutine
from inspect import isasyncgenfunction, isgeneratorfunction
from typing import ParamSpec

from websuckets.channels import Channels
from websuckets.introspection.functions import where
from websuckets.protocol.events import AnyEvent
from websuckets.runtime.effects import Effects
from websuckets.session import UserId
from websuckets.socket import Socket

__all__ = ["OnCommit"]

P = ParamSpec("P")


class OnCommit:
    """Collector of effects, which happen if the message succeeds and commits (REQUEST scope).

    ``on_commit(send_receipt, address)`` calls ``send_receipt(address)`` once the scope of the
    message has closed without an error, and so all its finalisers, such as a commit, have
    succeeded; the client gets its reply afterwards. Nothing is called after an error of the
    handler, of encoding its result, or of a finaliser, nor after a cancellation before that.

    Effects run one after the other in their order, also if the client has left or the command is
    cancelled meanwhile, for at most `Limits.finalize_timeout` in all. One that fails, or that is
    not finished in this time, is logged as an incident, and changes neither the others nor the
    reply. Effects are kept in memory: when the process dies between the commit and an effect, the
    effect does not happen.

    Hooks have effects in the same way, and so has each scope that a `ScopeFactory` opens. A stream
    has none of its own, because it ends by a cancellation as a rule: it opens a scope for each step
    by ``ScopeFactory[tuple[AsyncSession, OnCommit]]``.

    Methods raise `RuntimeError` once the scope has closed.
    """

    def __init__(self, effects: Effects, channels: Channels) -> None:
        self._effects = effects
        self._channels = channels

    def __call__(
        self, function: Callable[P, object], /, *arguments: P.args, **keywords: P.kwargs
    ) -> None:
        """Call ``function``, sync or async, with these arguments on commit.

        Raises `TypeError` for anything that cannot be called, and for a generator function.
        """
        given: object = function
        if not callable(given):
            if isinstance(given, Coroutine):
                given.close()
            raise TypeError(
                "on_commit(function, ...): pass a function and its arguments, without calling it, "
                f"not a {type(given).__name__}"
            )
        if isasyncgenfunction(function) or isgeneratorfunction(function):
            raise TypeError(
                f"on_commit(function, ...): {where(function)} yields, so a call of it alone would "
                "do nothing; pass a function without `yield`"
            )
        self._effects.add(function, *arguments, **keywords)

    def publish(self, name: str, event: AnyEvent, exclude: Socket | None = None) -> None:
        """Send an event to every subscriber of the channel ``name`` but ``exclude`` on commit.

        The event is encoded now: later changes to its payload are not seen. Raises the errors of
        `Channels.publish` at once.
        """
        encoded = self._channels.check(name, event)
        self._effects.add(self._channels.publish, name, encoded, exclude)

    def send_to(self, user_id: UserId, event: AnyEvent) -> None:
        """Send an event to every connection of the user ``user_id`` on commit.

        The event is encoded now, as by `publish`. Raises the errors of `Channels.send_to` at once.
        """
        encoded = self._channels.check(None, event)
        self._effects.add(self._channels.send_to, user_id, encoded)

    def __repr__(self) -> str:
        return "OnCommit()"
