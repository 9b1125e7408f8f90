"""Apps whose health a function of the program decides about, and questions for their health."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx2
import pytest
from dishka import Provider, Scope, provide
from harness import Gate
from timeouts import TIMEOUT

from websuckets import WebSuckets

READY = (200, "ok\n")
NOT_READY = (503, "not ready\n")
STOPPING = (503, "stopping\n")


async def health(server: Any, path: str = "/health") -> tuple[int, str]:
    """Return the status and the text with which a server answers a GET request."""
    async with httpx2.AsyncClient(trust_env=False, verify=False, timeout=TIMEOUT) as http:
        response = await http.get(f"http://127.0.0.1:{server.port}{path}")
        return response.status_code, response.text


async def asked(app: WebSuckets, path: str = "/health") -> tuple[int, str]:
    """Return the status and the text with which `app.asgi` answers a GET request."""
    sent: list[Any] = []

    async def send(event: Any) -> None:
        sent.append(event)

    await app.asgi({"type": "http", "method": "GET", "path": path}, None, send)  # type: ignore[arg-type]
    return sent[0]["status"], sent[1]["body"].decode()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines of the log about readiness, and their levels."""
    return [
        f"{record.levelname} {record.getMessage().partition(', incident')[0]}"
        for record in caplog.records
        if record.name == "websuckets" and "commands: " not in record.getMessage()
    ]


class Database:
    is_up = True


class Transaction: ...


class Storage(Provider):
    """Providers that record when a database and a transaction of it are opened and closed."""

    def __init__(self, journal: list[str]) -> None:
        super().__init__()
        self.journal = journal

    @provide(scope=Scope.APP)
    async def database(self) -> AsyncIterator[Database]:
        yield Database()
        self.journal.append("close database")

    @provide(scope=Scope.REQUEST)
    async def transaction(self, database: Database) -> AsyncIterator[Transaction]:
        self.journal.append("begin")
        error = yield Transaction()
        await anyio.sleep(0)
        self.journal.append(f"rollback: {type(error).__name__}" if error else "commit")


class Counting:
    """A check that waits at a gate, and counts its runs."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.runs = self.running = self.most = self.cancelled = 0

    async def ready(self) -> None:
        self.runs += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate()
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
