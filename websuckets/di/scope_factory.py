"""Scopes on demand: `ScopeFactory`, which opens a REQUEST scope of its own as often as needed.

The problem: a stream and a task live for long, and a database connection that their own scope holds
is missing in the pool all that time. So they open a scope for each step. The factory is needed in
every scope, by handlers, by objects of a connection and by objects of the app, and deep below each
of them; the scopes that it opens have the message and the user of a handler, where it is one.

dishka gives each type to one scope. So `ScopeFactory` is a type of APP scope there, and its object
opens scopes in the app; where an object of a connection or of a message asks for one,
`ScopeBinder` makes one that is bound to the connection or to the message instead. Rejected: a
`contextvars` variable with the current message. The same object of the app would open scopes with
a message here and without one there, so it could not be proved at start that they can be opened.
"""

from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, get_args, get_origin

import anyio
from dishka import AsyncContainer, DependencyKey
from dishka.dependency_source import Factory

from websuckets.exc import alone
from websuckets.introspection.hints import bare_type, component_of, name_of, plain
from websuckets.protocol.messages import Message
from websuckets.runtime.effects import Effects
from websuckets.runtime.finalisers import Exit
from websuckets.runtime.incidents import log_incident
from websuckets.runtime.request_scope import RequestScope, RequestScopes
from websuckets.runtime.scopes import OpenScope
from websuckets.security import CurrentUser, authorised_user
from websuckets.socket import Socket

__all__ = ["ScopeBinder", "ScopeFactory", "ScopeSource", "opened_by", "scope_factory"]

T = TypeVar("T")


class ScopeSource:
    """Source of the scopes that the factories of one app open, while the app runs."""

    def __init__(self) -> None:
        self._running: tuple[OpenScope, RequestScopes] | None = None

    def begin(self, scope: OpenScope, request_scopes: RequestScopes) -> None:
        """Open scopes in the APP scope ``scope`` from now on."""
        self._running = scope, request_scopes

    def stop(self) -> None:
        """Open no more scopes; scopes that are open can still be closed."""
        self._running = None

    @property
    def running(self) -> tuple[OpenScope, RequestScopes]:
        """The APP scope, and the request scopes of the app; raises `RuntimeError` without a run."""
        if self._running is None:
            raise RuntimeError(
                "ScopeFactory: the app does not run; open scopes in handlers, hooks and tasks, "
                "from on_startup on"
            )
        return self._running


class ScopeFactory(Generic[T]):
    """Factory of scopes of their own: ``async with new_scope() as db`` (any scope).

    A dependency ``new_scope: ScopeFactory[AsyncSession]`` opens, each time that it is called and
    entered as a context, a REQUEST scope, and gives the object of type ``AsyncSession`` in it;
    ``ScopeFactory[tuple[A, B]]`` gives several objects of one scope. The scope closes at the end of
    the block, with the error that ended the block, so that a transaction is committed or rolled
    back; then the effects of its `OnCommit` run. Any number of scopes may be open at once;
    as a task group, each is left in the task that has entered it, the last one first.

    A factory that a command has got, or an object of REQUEST scope in it, opens scopes with the
    message and the user of the command, as long as the client is connected. A factory of an object
    of a connection (SESSION scope) opens scopes in that connection, and that of an object of the
    app, such as a task, scopes of the app alone. It is proved at the start that everything in such
    a scope can be provided.

    Entering raises the errors of providers, `NotAuthorized` if the user of the command is not
    verified any more, and `RuntimeError` while the app does not run. Leaving raises the errors of
    finalisers, such as a failed commit: the error itself if there is one alone, or else
    dishka's ``ExitError``; if the block has failed, its error is raised, and others are logged.
    """

    __slots__ = ("_gives_tuple", "_hint", "_keys", "_message", "_scope", "_source")

    def __init__(
        self,
        hint: Any,
        source: ScopeSource,
        scope: OpenScope | None = None,
        message: Message | None = None,
    ) -> None:
        self._hint = hint
        self._keys = opened_by(hint)
        self._gives_tuple = _is_tuple(plain(hint))
        self._source = source
        self._scope = scope
        self._message = message

    def __call__(self) -> "_Opening[T]":
        """Return the scope, as an async context that is entered once."""
        return _Opening(self)

    def __repr__(self) -> str:
        return f"ScopeFactory[{name_of(self._hint)}]"

    if not TYPE_CHECKING:  # type checkers refuse a factory as a context by themselves

        async def __aenter__(self) -> NoReturn:
            raise TypeError(f"{self!r} opens scopes; call it: `async with new_scope() as ...`")

        async def __aexit__(self, *error: object) -> NoReturn: ...


class _Opening(Generic[T]):
    """One scope, as a context.

    Providers may hold cancel scopes around their ``yield``, such as timeouts and task groups. So
    the request scope, which is a cancel scope, too, is entered before they are, and left after
    them: in the same task.
    """

    __slots__ = ("_effects", "_exits", "_factory", "_request_scope")

    _effects: Effects
    _request_scope: RequestScope

    def __init__(self, factory: ScopeFactory[T]) -> None:
        self._factory = factory
        self._exits: list[Exit] | None = None  # set once the context is entered

    async def __aenter__(self) -> T:
        factory = self._factory
        if self._exits is not None:
            raise RuntimeError(f"{factory!r}: the scope was opened before; call the factory again")
        scope, request_scopes = factory._source.running
        values: dict[Any, Any] = {}
        objects: dict[Any, object] = {}
        if factory._scope is not None:
            scope = factory._scope
        if factory._message is not None:
            values[Message] = factory._message
            user = authorised_user(scope.values[Socket])
            if user is not None:
                objects[CurrentUser] = user
        self._effects = values[Effects] = Effects()
        self._exits = []
        self._request_scope = request_scopes.begin(anyio.CancelScope())  # which nothing cancels
        self._request_scope.__enter__()
        try:
            container = scope.request(values, self._exits, factory._message, objects)
            found = [await container.get(key.type_hint, key.component) for key in factory._keys]
        except BaseException as error:
            await self._close(error)
            raise
        given: Any = tuple(found) if factory._gives_tuple else found[0]
        return given  # type: ignore[no-any-return]  # a T

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None and self._effects.last_step is not None:
            try:
                await self._effects.last_step()
            except BaseException as error:
                await self._close(error)
                raise
        await self._close(exc)

    async def _close(self, error: BaseException | None) -> None:
        assert self._exits is not None
        request_scope = self._request_scope
        try:
            try:
                unfinished = await request_scope.finalise(self._exits, error)
            finally:
                request_scope.__exit__(None, None, None)
            if error is None and unfinished is None:
                await self._effects.run(repr(self._factory), request_scope.finalize_timeout)
        finally:
            self._effects.discard()
        if unfinished is None:
            return
        if error is None:
            raise alone(unfinished)
        log_incident(f"finalisers of {self._factory!r}", unfinished)


def scope_factory(hint: type[T], source: ScopeSource) -> ScopeFactory[T]:
    """Return the factory for an object of the app; see `ScopeBinder` for others."""
    return ScopeFactory(hint, source)


class ScopeBinder:
    """Maker of the factories that are bound to a connection or to a message.

    ``container`` is that of the app, which says whether a program has replaced our factory.
    """

    def __init__(self, source: ScopeSource, container: AsyncContainer) -> None:
        self._source = source
        self._registry = container.registry
        self._is_ours: dict[Any, bool] = {}

    def binds(self, hint: Any) -> bool:
        """Tell whether objects of this type are bound by this binder."""
        if get_origin(hint) is not ScopeFactory:
            return False
        if hint not in self._is_ours:
            factory = self._registry.get_factory(DependencyKey(hint, ""))
            self._is_ours[hint] = factory is not None and opens_scopes(factory)
        return self._is_ours[hint]

    def bound(self, hint: Any, scope: OpenScope, message: Message | None) -> ScopeFactory[Any]:
        """Return the factory for an object of ``scope``, or of a message in it."""
        (opened,) = get_args(hint)
        return ScopeFactory(opened, self._source, scope, message)


def opens_scopes(factory: Factory) -> bool:
    """Tell whether a factory of a container is the one of `ScopeFactory`, and not a program's."""
    return factory.source is scope_factory


def opened_by(hint: Any) -> tuple[DependencyKey, ...]:
    """Return the keys of the objects in a scope for ``ScopeFactory[hint]``."""
    hint = plain(hint)
    hints = map(plain, get_args(hint)) if _is_tuple(hint) else (hint,)
    return tuple(DependencyKey(bare_type(one), component_of(one)) for one in hints)


def _is_tuple(hint: Any) -> bool:
    return get_origin(hint) is tuple and ... not in get_args(hint)
