"""Prices that never stand still, for whoever wants to watch one.

Run it with ``python examples/ticker.py``, connect with ``python -m websockets ws://localhost:9000``
and type::

    {"event": "price list"}
    {"event": "price watch", "payload": "GOLD", "id": "gold"}
    {"event": "price watch", "payload": "SILVER", "id": "silver"}
    {"cancel": "gold"}
"""

import random
from collections.abc import AsyncIterator
from decimal import Decimal

import anyio
from dishka import Provider, Scope, provide
from websockets.asyncio.server import ServerConnection

from websuckets import AppTasks, CommandGroup, Payload, WebSuckets
from websuckets.exc import ClientError

SECONDS_BETWEEN_PRICES = 0.2


class Prices:
    """The last price of everything; it lives as long as the server."""

    def __init__(self) -> None:
        self.last = {"GOLD": Decimal("2400.00"), "SILVER": Decimal("29.00")}
        self._changed = anyio.Event()

    async def move(self) -> None:
        """Move all prices by up to a hundredth, again and again."""
        while True:
            await anyio.sleep(SECONDS_BETWEEN_PRICES)
            for name, price in self.last.items():
                change = Decimal(random.randint(-100, 100)) / 10_000
                self.last[name] = (price * (1 + change)).quantize(Decimal("0.01"))
            changed, self._changed = self._changed, anyio.Event()
            changed.set()

    async def watch(self, name: str) -> AsyncIterator[Decimal]:
        """The price now, and whenever it changes. A slow reader misses some, but never the last."""
        while True:
            changed = self._changed
            yield self.last[name]
            await changed.wait()


class PricesProvider(Provider):
    prices = provide(Prices, scope=Scope.APP)


group = CommandGroup("price")


@group.command("list")
async def list_prices(socket: ServerConnection, *, prices: Prices) -> dict[str, Decimal]:
    return prices.last


@group.command("watch")
async def watch(
    socket: ServerConnection, name: Payload[str], prices: Prices
) -> AsyncIterator[Decimal]:
    if name not in prices.last:
        raise ClientError("no such price")
    async for price in prices.watch(name):
        yield price


app = WebSuckets(providers=[PricesProvider()])
app.include_command_group(group)


@app.on_startup
async def start_feed(prices: Prices, tasks: AppTasks) -> None:
    tasks.start_soon(prices.move)


if __name__ == "__main__":
    app.run("localhost", 9000)
