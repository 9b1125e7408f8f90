"""Effects of a message that happen only if its transaction commits: `OnCommit`."""

from collections.abc import Callable, Coroutine
from inspect import isasyncgenfunction, isgeneratorfunction
from typing import ParamSpec

from websuckets.channels import Channels
from websuckets.history import MessageLog, Position, Publication, in_order
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

    def __init__(self, effects: Effects, channels: Channels, log: MessageLog) -> None:
        self._effects = effects
        self._channels = channels
        self._log = log
        self._publications: list[Publication] = []
        """Events that are to be appended in the transaction of the handler."""
        self._positions: dict[str, Position] | None = None
        """Positions of these events by the ids of the publications, once they are appended."""

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

        An event of a channel with a history, whose log is in the database of the handler, is
        appended to the log as the last step of the transaction: there is the event if and only if
        the transaction commits. Raises the errors of `Channels.publish` at once.
        """
        sent = self._channels.check(name, event)
        publication = None
        if self._log.is_transactional and self._positions is None:
            publication = self._channels._publication(name, sent, exclude)
        if publication is None:
            self._effects.add(self._channels.publish, name, sent, exclude)
            return
        self._effects.add(self._deliver, publication)
        self._effects.last_step = self._append
        self._publications.append(publication)

    def send_to(self, user_id: UserId, event: AnyEvent) -> None:
        """Send an event to every connection of the user ``user_id`` on commit.

        Raises `TypeError` for an event that is neither a `ClientEvent` nor an `Event`.
        """
        self._effects.add(self._channels.send_to, user_id, self._channels.check(None, event))

    async def _append(self) -> None:
        """Append the events in the transaction, which is about to be committed."""
        self._positions = {}
        publications = in_order(self._publications)
        positions = await self._log.append(publications)
        for publication, position in zip(publications, positions, strict=True):
            self._positions[publication.id] = position

    async def _deliver(self, publication: Publication) -> None:
        """Deliver an event whose transaction is committed."""
        assert self._positions is not None
        if not self._log.has_committed:
            raise RuntimeError(
                "on_commit.publish: the session of the handler was closed without a commit, so "
                "there is no event; let the provider of the session commit, as "
                "provide_context(sessionmaker.begin, provides=AsyncSession) does"
            )
        await self._channels._deliver(publication, self._positions[publication.id])

    def __repr__(self) -> str:
        return "OnCommit()"
