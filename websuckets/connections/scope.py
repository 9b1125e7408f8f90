"""The SESSION scope of one connection: the objects of its client, and their finalisation."""

from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import Any

import anyio
from websockets.http11 import Request

from websuckets.commands.peer import Peer
from websuckets.commands.streams_and_concurrency import ConcurrentCommands
from websuckets.connections.hook_calls import call_on_disconnect
from websuckets.connections.setup import Setup
from websuckets.di.lock import lock_factory
from websuckets.protocol.transport import TransportConnection
from websuckets.runtime.incidents import log_incident
from websuckets.runtime.tasks import TaskSource
from websuckets.session import User, context_of, disconnected
from websuckets.socket import Socket

__all__ = ["ConnectionScope"]


class ConnectionScope:
    """Scope of one connection, from its opening handshake until all is finalised.

    ``name`` is that of the connection, for the log.
    """

    __slots__ = ("_name", "_setup", "life", "peer", "tasks", "user")

    def __init__(self, transport: TransportConnection, setup: Setup, name: object) -> None:
        self._setup = setup
        self._name = name
        self.user: User = User(transport.socket)
        self.tasks: TaskSource = TaskSource(name, self._is_of_its_end, setup.background)
        # Messages that are answered one after the other need no lock.
        lock = lock_factory if setup.some_run_beside else None
        values = self._values(transport.socket)
        scope = setup.scope.session(values, lock, context_of(setup.session))
        self.life: anyio.CancelScope = anyio.CancelScope()
        """Scope around the request scope of the task that serves; it ends all that runs there."""
        request_scope = setup.request_scopes.begin(self.life)
        self.peer: Peer = Peer(transport, transport.socket, scope, request_scope)

    def _values(self, socket: Socket) -> dict[Any, Any]:
        """Return the values of the SESSION scope by their types."""
        return {
            Socket: socket,
            **dict.fromkeys(self._setup.connection_types, socket),
            Request: socket.request,
            User: self.user,
            TaskSource: self.tasks,
        }

    @contextmanager
    def request_scope(self) -> Iterator[None]:
        """Enter a request scope for one step before the connection is served."""
        with anyio.CancelScope() as self.life:
            with self._setup.request_scopes.begin(self.life) as self.peer.request_scope:
                yield

    async def finalise(
        self,
        error: BaseException | None,
        concurrent: ConcurrentCommands | None,
        *,
        was_connected: bool,
        at_once: bool,
    ) -> None:
        """Finalise the objects of the connection; every step is made, even if others fail.

        ``error`` has ended the connection, if it is not ``None``. ``was_connected`` says that every
        ``on_connect`` hook has let the client in; ``at_once``, that running commands are cancelled.
        Raises errors that have to propagate.
        """
        setup, peer = self._setup, self.peer
        async with AsyncExitStack() as steps:
            steps.push_async_callback(self._close, error)
            steps.callback(disconnected, self.user)
            steps.push_async_callback(self.tasks.stop)
            if was_connected:
                timeout = setup.limits.finalize_timeout
                for hook in reversed(setup.hooks.disconnect):
                    steps.push_async_callback(
                        call_on_disconnect, hook, peer, setup.request_scopes, timeout
                    )
            if concurrent is not None:
                steps.push_async_callback(concurrent.stop, at_once=at_once)
            if not peer.is_closed:
                with anyio.CancelScope(shield=True):
                    await peer.transport.abort()

    async def finalise_unopened(self) -> None:
        """Finalise the scope of a connection that was not opened."""
        with self.request_scope():
            try:
                await self.tasks.stop()
            finally:
                await self._close(None)

    async def _close(self, error: BaseException | None) -> None:
        """Close the scope in the current request scope, where objects may have entered scopes."""
        peer = self.peer
        with ExitStack() as stack:
            if peer.request_scope.is_spent:
                another = self._setup.request_scopes.begin(self.life)
                peer.request_scope = stack.enter_context(another)
            failure = await peer.request_scope.close_scope(peer.scope, error)
            if failure is not None:
                log_incident(f"finalisers of {self._name}", failure)

    def _is_of_its_end(self, error: BaseException) -> bool:
        return self.peer.is_of_its_end(error)
