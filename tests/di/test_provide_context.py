"""Providers made of context managers."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from functools import partial
from types import TracebackType
from typing import Annotated, Any

import pytest
from dishka import AsyncContainer, FromComponent, Provider, Scope, make_async_container, provide
from dishka.exceptions import ExitError

from websuckets.di import provide_context
from websuckets.di.graph import scopes_of
from websuckets.exc import ConfigurationError

pytestmark = pytest.mark.anyio

journal: list[Any] = []


@pytest.fixture(autouse=True)
def empty_journal() -> None:
    journal.clear()


class Engine: ...


class Session:
    def __init__(self, engine: "Engine", name: str = "default") -> None:
        self.engine, self.name = engine, name

    async def __aenter__(self) -> "Session":
        journal.append(f"enter {self.name}")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        assert exc_type is type(error) or error is None is exc_type
        assert traceback is (error and error.__traceback__)
        journal.append(error)
        return True  # has no effect: the message failed all the same


class SyncSession:
    def __enter__(self) -> "SyncSession":
        journal.append("enter sync")
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        journal.append(error)


@asynccontextmanager
async def generator(engine: Engine) -> AsyncIterator[Session]:
    try:
        yield Session(engine, "generator")
    except BaseException as error:
        journal.append(error)
        raise
    else:
        journal.append(None)


@asynccontextmanager
async def async_generator(engine: Engine) -> AsyncGenerator[Session, None]:
    async with Session(engine) as session:
        yield session


@contextmanager
def sync_generator(engine: Engine) -> Iterator[Session]:
    try:
        yield Session(engine)
    except BaseException as error:
        journal.append(error)
        raise
    journal.append(None)


def returns_manager(*, engine: Engine) -> AbstractAsyncContextManager[Session]:
    return Session(engine)


def returns_sync_manager() -> AbstractContextManager[SyncSession]:
    return SyncSession()


class Maker:
    """Like SQLAlchemy's sessionmaker: callable, with keywords of its own."""

    def begin(self) -> "Undefined":  # noqa: F821  # on purpose
        return Session(Engine())

    def __call__(self, **local_kw: Any) -> Session:
        return Session(Engine())


def with_component(
    engine: Annotated[Engine, FromComponent("db")],
) -> AbstractAsyncContextManager[Session]:
    return Session(engine, "component")


def engine(component: str = "") -> Provider:
    provider = Provider(scope=Scope.APP, component=component)
    provider.provide(Engine)
    return provider


CASES = [
    (provide_context(Session), Session),
    (provide_context(SyncSession), SyncSession),
    (provide_context(generator), Session),
    (provide_context(async_generator), Session),
    (provide_context(sync_generator), Session),
    (provide_context(returns_manager), Session),
    (provide_context(returns_sync_manager), SyncSession),
    (provide_context(returns_manager, provides=object), object),
    (provide_context(partial(Session, name="partial"), provides=Session), Session),
    (provide_context(Maker().begin, provides=Session), Session),
    (provide_context(Maker(), provides=Session), Session),
    (provide_context(with_component), Session),
]


@pytest.mark.parametrize("error", [None, ValueError("x"), KeyboardInterrupt()])
@pytest.mark.parametrize(("provider", "provides"), CASES)
async def test_the_context_gets_what_ended_the_scope(
    provider: Provider, provides: Any, error: BaseException | None
) -> None:
    """The context is entered and left once, with the error or without, and raises nothing again."""
    container = make_async_container(engine(), engine("db"), provider)
    scope = container(scope=Scope.REQUEST)
    thing = await scope.get(provides)
    assert await scope.get(provides) is thing
    await scope.close(error)
    assert journal[-1] is error
    assert journal.count(error) == 1


async def test_an_error_of_leaving_is_raised() -> None:
    """An error of a commit is in the `ExitError`."""

    @asynccontextmanager
    async def failing() -> AsyncIterator[Session]:
        yield Session(Engine())
        raise RuntimeError("commit")

    container = make_async_container(provide_context(failing))
    scope = container(scope=Scope.REQUEST)
    await scope.get(Session)
    with pytest.raises(ExitError) as caught:
        await scope.close()
    assert str(caught.value.exceptions[0]) == "commit"


async def test_scope_and_component() -> None:
    """The default scope is REQUEST, and the component may be set."""
    provider = provide_context(
        returns_sync_manager, scope=Scope.SESSION, component="db", provides=SyncSession
    )
    container: AsyncContainer = make_async_container(provider)
    session = container(scope=Scope.SESSION)
    async with session(scope=Scope.REQUEST) as request:
        await request.get(SyncSession, component="db")
    assert journal == ["enter sync"]
    await session.close()
    assert journal == ["enter sync", None]


class Transaction:
    """A context manager of another type than the object that its `__aenter__` returns."""

    async def __aenter__(self) -> Engine:
        return Engine()

    async def __aexit__(self, *args: object) -> None: ...


class Unhinted:
    async def __aenter__(self):
        return self

    async def __aexit__(self, *args: object) -> None: ...


class Strange:
    async def __aenter__(self) -> "Nowhere":  # noqa: F821  # on purpose
        return self

    async def __aexit__(self, *args: object) -> None: ...


@pytest.mark.parametrize(
    ("factory", "provides"), [(Transaction, Engine), (Unhinted, Unhinted), (Strange, Strange)]
)
async def test_a_class_provides_what_entering_it_gives(factory: Any, provides: Any) -> None:
    """A class provides the type in the hint of `__aenter__`, or else itself."""
    container = make_async_container(provide_context(factory))
    async with container(scope=Scope.REQUEST) as scope:
        assert isinstance(await scope.get(provides), provides)


async def undecorated() -> AsyncIterator[Session]:
    yield Session(Engine())


def unknown():
    return Session(Engine())


async def asynchronous() -> Session:
    return Session(Engine())


def strange() -> "Nowhere":  # noqa: F821  # on purpose
    return Session(Engine())


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        (unknown, "what does it provide"),
        (strange, "what does it provide"),
        (undecorated, "put @asynccontextmanager or @contextmanager on it"),
        (Session(Engine()), "without calling it"),
        (asynchronous, "an async function gives no context manager"),
    ],
)
def test_what_makes_no_context_is_refused_at_once(factory: Any, says: str) -> None:
    """The error has the remedy."""
    with pytest.raises(ConfigurationError, match=says):
        provide_context(factory)


# As an attribute of a provider -------------------------------------------------------------------


async def test_it_may_be_an_attribute_of_a_provider() -> None:
    """An attribute has the defaults of its class like dishka's own, and is still a provider
    itself."""

    @asynccontextmanager
    async def begin(engine: Engine) -> AsyncIterator[Session]:
        yield Session(engine, "attribute")

    class Databases(Provider):
        scope = Scope.SESSION
        session = provide_context(begin)
        narrow = provide_context(begin, provides=object, scope=Scope.REQUEST)

    class WithoutScope(Provider):
        component = "billing"
        engine = provide(Engine, scope=Scope.APP)
        session = provide_context(begin)

    class Later(Provider):
        scope = Scope.REQUEST
        first = provide_context(begin, provides=Named)
        second = provide(lambda self: Named("later"), provides=Named)

    assert isinstance(Databases.session, Provider)
    container = make_async_container(engine(), Databases(), WithoutScope(), Later())
    assert scopes_of(container, Session) == {Scope.SESSION}
    assert scopes_of(container, object) == {Scope.REQUEST}
    assert scopes_of(container, Annotated[Session, FromComponent("billing")]) == {Scope.REQUEST}
    async with container(scope=Scope.REQUEST) as request:
        assert (await request.get(Session)).name == "attribute"
        assert (await request.get(Session, "billing")).name == "attribute"
        assert (await request.get(Named)).name == "later"
    async with make_async_container(engine(), Databases.session)() as request:
        assert (await request.get(Session)).name == "attribute"


class Named:
    def __init__(self, name: str) -> None:
        self.name = name


def test_a_component_of_its_own_does_not_go_with_that_of_a_class() -> None:
    """A component is refused, as an attribute belongs to the component of its class."""

    class Databases(Provider):
        session = provide_context(returns_manager, component="other")

    with pytest.raises(
        ConfigurationError, match=r"Databases: provide_context\(component='other'\)"
    ):
        Databases()

    class Same(Provider):
        component = "other"
        session = provide_context(returns_manager, component="other")

    Same()

    class Unrelated:
        session = provide_context(returns_manager)

    assert isinstance(Unrelated().session, Provider)


async def test_what_gives_no_context_manager_is_told() -> None:
    """A function that returns a coroutine looks like any other function until it is called."""

    async def opens() -> Session: ...

    def promises() -> AbstractAsyncContextManager[Session]:
        return 5  # type: ignore[return-value]  # on purpose

    class Opens:
        async def __call__(self) -> Session: ...

    class Yields:
        def __call__(self) -> Iterator[Session]:
            yield Session(Engine())

    container = make_async_container(provide_context(promises))
    with pytest.raises(TypeError, match=r"promises.*it gave an object of type int"):
        async with container(scope=Scope.REQUEST) as request:
            await request.get(Session)
    for wrong in (Opens(), partial(opens), Yields()):
        with pytest.raises(ConfigurationError, match="context manager"):
            provide_context(wrong)
