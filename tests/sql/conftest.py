from collections.abc import AsyncIterator, Callable

import pytest
from once_nodes import OnceNode, once_node, prepare
from sql_databases import DATABASES, Database
from sql_logs import Node, opened


@pytest.fixture
def anyio_backend() -> str:
    """Run every asynchronous test on asyncio: SQLAlchemy knows no other event loop."""
    return "asyncio"


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, sql_database: Callable[[str], Database]) -> Database:
    """Return an empty database of each kind."""
    return sql_database(request.param)


@pytest.fixture
async def node(database: Database) -> AsyncIterator[OnceNode]:
    """Yield a node with all tables."""
    async with once_node(database.engine()) as node:
        await prepare(node.engine)
        yield node


@pytest.fixture
async def other_node(database: Database, node: OnceNode) -> AsyncIterator[OnceNode]:
    """Yield a second node, with the same database."""
    async with once_node(database.engine()) as other:
        yield other


@pytest.fixture
async def one(database: Database) -> AsyncIterator[Node]:
    async with opened(database) as node:
        await prepare(node.engine)
        yield node


@pytest.fixture
async def two(database: Database, one: Node) -> AsyncIterator[Node]:
    async with opened(database) as node:
        yield node
