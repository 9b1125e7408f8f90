"""All peers of a running app, and how it parts from them."""

import logging

import anyio

from websuckets.connection import Connection, Setup
from websuckets.socket import Wire
from websuckets.tasks import wait_through

__all__ = ["Connections"]

logger: logging.Logger = logging.getLogger("websuckets")


class Connections:
    """The connections of a running app, from their opening handshakes on."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._open: set[Connection] = set()
        self._draining = False
        self._all_gone = anyio.Event()

    def accept(self, wire: Wire) -> Connection:
        """A client whose opening handshake is about to be answered."""
        connection = Connection(wire, self._setup, self._gone)
        self._open.add(connection)
        if self._draining:  # its handshake came in the moment of stopping
            connection.leave()
        return connection

    def _gone(self, connection: Connection) -> None:
        self._open.discard(connection)
        if not self._open:
            self._all_gone.set()

    async def drain(self) -> None:
        """Close every connection after its running command, and wait until all are gone."""
        self._draining = True
        async with anyio.create_task_group() as closing:
            for connection in self._open:
                closing.start_soon(connection.drain)
        await self._wait_until_gone()

    async def abort(self) -> None:
        """Cancel what still runs, and wait until it has been finalised.

        A handler that ignores its cancellation is left behind, and an error is logged.
        """
        if not self._open:
            return
        logger.warning("aborting %d connections that did not close", len(self._open))
        for connection in self._open:
            connection.cancel()
        timeout = self._setup.limits.finalize_timeout
        # One for the scope of the message, one for streams, tasks, and the scope of the connection;
        # for each hook, one for itself and one for its scope; one to spare.
        most = 5 + 2 * len(self._setup.hooks.disconnect)
        self._all_gone = anyio.Event()
        try:
            await wait_through(self._all_gone, None if timeout is None else most * timeout)
        finally:
            self._tell_of_those_left()

    def _tell_of_those_left(self) -> None:
        if self._open:
            logger.error("%d connections ignore their cancellation", len(self._open))

    async def _wait_until_gone(self) -> None:
        if self._open:
            self._all_gone = anyio.Event()
            await self._all_gone.wait()
