"""dishka's provider for the job, wherever dishka is used: `Store` for all, `Transaction` for
one."""

from collections.abc import AsyncIterator
from typing import Any

from dishka import Provider, Scope, provide

from benchmarks.job import Store, Transaction

__all__ = ["providers"]


class Storage(Provider):
    store = provide(Store, scope=Scope.APP)

    @provide(scope=Scope.REQUEST)
    async def transaction(self, store: Store) -> AsyncIterator[Transaction]:
        transaction = Transaction(store)
        yield transaction
        transaction.close()


def providers(depth: int = 0) -> list[Provider]:
    """Return providers with ``depth`` objects between `Transaction` and `Store`."""
    if depth == 0:
        return [Storage()]
    chain = Provider(scope=Scope.REQUEST)
    below: Any = Store
    for number in range(depth):
        below = _link(number, below)
        chain.provide(below)

    async def transaction(store: Store, last: Any) -> AsyncIterator[Transaction]:
        transaction = Transaction(store)
        yield transaction
        transaction.close()

    transaction.__annotations__["last"] = below
    chain.provide(transaction)
    return [Storage(), chain]


def _link(number: int, below: Any) -> Any:
    """Return a class whose objects need an object of the class below."""

    class Link:
        def __init__(self, below: Any) -> None:
            self.below = below

    Link.__init__.__annotations__["below"] = below
    Link.__name__ = Link.__qualname__ = f"Link{number}"
    return Link
