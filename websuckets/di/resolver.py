"""Resolvers: functions that build all that one command asks for, in one coroutine.

dishka compiles each factory to a coroutine function of its own. Resolving the user, a session and
a service for one message runs one coroutine for each of them, one more for each object of a wider
scope, and makes a container that holds the objects. Measured, that was a quarter of what a command
cost, beside an application's own code.

Most commands need none of that: their graph of factories is known when the app starts, nothing in
the graph depends on a condition, and nothing asks for the container itself. For such a graph this
module writes one function that calls the factories one after the other, in the order in which
dishka would call them, and keeps the objects in local variables. Objects of the connection and of
the app are found in their scopes, which remember earlier answers (`OpenScope.found`).

Tried and rejected:

- A list of steps that one coroutine interprets. It needs no generated code, and saves half as much.
- Writing such functions at start. 10,000 commands would start later by seconds, so each function
  is written when its command first runs.
- Telling the event loop of asynchronous generators, as Python does when one begins. The loop closes
  generators that nobody closes; ours are closed by their scope. That bookkeeping costs more than
  the rest of a generator.

Every other graph is resolved by dishka: see `Resolver._by_container`.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from sys import get_asyncgen_hooks, set_asyncgen_hooks
from typing import Any, Final, TypeAlias

from dishka import AsyncContainer, DependencyKey
from dishka.dependency_source import Factory
from dishka.entities.factory_type import FactoryType
from dishka.registry import Registry

from websuckets.introspection.functions import where
from websuckets.protocol.messages import Message
from websuckets.runtime.effects import Effects
from websuckets.runtime.finalisers import Exit, never_waits
from websuckets.runtime.scopes import OpenScope
from websuckets.security import CurrentUser

__all__ = ["Resolver", "check_user_of"]

Resolve: TypeAlias = Callable[
    [OpenScope, Message, list[Exit], Effects | None], Coroutine[Any, Any, tuple[Any, ...]]
]

PLAIN: Final = {
    FactoryType.FACTORY: "{result} = {call}",
    FactoryType.ASYNC_FACTORY: "{result} = await {call}",
    FactoryType.GENERATOR: "g = {call}; {result} = next(g); exits.append((g, None))",
    FactoryType.ASYNC_GENERATOR: "g = {call}; {result} = await begin(g); exits.append((None, g))",
}
"""Statements that build an object with a factory of each type."""

GENERATORS: Final = (FactoryType.GENERATOR, FactoryType.ASYNC_GENERATOR)


class Resolver:
    """Resolver of the dependencies of one command, for as long as an app runs.

    ``key`` is the type under which the container gives all dependencies, as a tuple; see
    `Injection`. ``places`` are the places of the dependencies among the parameters of its factory.
    ``is_protected`` says that `CurrentUser` is a guard of the command.
    """

    __slots__ = (
        "_is_protected",
        "_key",
        "_places",
        "_user",
        "finalisers_wait",
        "resolve",
        "takes_effects",
    )

    def __init__(self, key: Any, places: Sequence[int], *, is_protected: bool = False) -> None:
        self._is_protected = is_protected
        self._user: Factory | None = None
        self._key = key
        self._places = places
        self.resolve: Resolve = self._choose
        """Function that returns the dependencies for a message in a scope of a connection.

        The generators of objects that have to be finalised are added to the list ``exits`` at once,
        so that they are known if a later factory fails. Raises the errors of factories. The last
        argument has the effects of the message; it is ``None`` only if not `takes_effects`."""
        self.takes_effects: bool = True
        """False once it is known that nothing adds to the effects of a message."""
        self.finalisers_wait: bool = True
        """False once it is known that no finaliser of the objects waits for anything."""

    def _choose(
        self, scope: OpenScope, message: Message, exits: list[Exit], effects: Effects | None
    ) -> Coroutine[Any, Any, tuple[Any, ...]]:
        """Resolve for the first time, and choose how all later messages are resolved."""
        user = scope.request_registry.get_factory(DependencyKey(CurrentUser, ""))
        if self._is_protected and user is not None and is_user_of_the_program(user):
            self._user = user
        writer = _Writer(scope)
        written = writer.write(self._key, self._places)
        self.takes_effects = written is None or writer.takes_effects
        self.finalisers_wait = written is None or writer.finalisers_wait
        self.resolve = written or self._by_container
        return self.resolve(scope, message, exits, effects)

    async def _by_container(
        self, scope: OpenScope, message: Message, exits: list[Exit], effects: Effects | None
    ) -> tuple[Any, ...]:
        """Resolve with a container of dishka, as any graph can be resolved."""
        container = scope.request({Message: message, Effects: effects}, exits, message)
        dependencies: tuple[Any, ...] = await container.get(self._key)
        if self._user is not None:
            check_user(await container.get(CurrentUser), self._user.source)
        return dependencies


class _NotPlainError(Exception):
    """A graph that only dishka resolves."""


class _Writer:
    """Writer of one function, for a graph whose factories are known to be complete."""

    def __init__(self, scope: OpenScope) -> None:
        self._scope = scope
        self._registry = scope.request_registry
        self._lines: list[str] = []
        self._names: dict[str, Any] = {
            "begin": _begin,
            "check_user": check_user,
        }  # of objects that the function uses
        self._built: dict[DependencyKey, str] = {}
        self.takes_effects = False
        self.finalisers_wait = False

    def write(self, key: Any, places: Sequence[int]) -> Resolve | None:
        """Return the function; ``None`` for a graph that is not plain."""
        factory = self._registry.get_factory(DependencyKey(key, ""))
        assert factory is not None
        try:
            values = [self._value_of(dependency) for dependency in factory.dependencies]
        except _NotPlainError:
            return None
        result = ", ".join(values[place] for place in places)
        lines = [
            "async def resolve(scope, message, exits, effects):",
            "values, found, found_in_app = scope.values, scope.found, scope.wider.found",
            *self._lines,
            f"return ({result},)" if result else "return ()",
        ]
        name = f"<dependencies of {key.__qualname__}>"
        exec(compile("\n    ".join(lines), name, "exec"), self._names)  # all names are our own
        resolve: Resolve = self._names["resolve"]
        return resolve

    def _value_of(self, key: DependencyKey) -> str:
        """Write the lines that build an object; return the expression of the object."""
        if key.is_const():
            return self._name("c", key.get_const_value())
        if key == self._registry.container_key or key.type_hint is DependencyKey:
            raise _NotPlainError
        if key in self._built:
            return self._built[key]
        binder = self._scope.binder
        if binder is not None and binder.binds(key.as_compilation_key()):
            hint, bind = self._name("k", key.type_hint), self._name("b", binder.bound)
            result = self._result()
            self._lines.append(f"{result} = {bind}({hint}, scope, message)")
            return result
        factory = self._registry.get_factory(key)
        value = self._found(key) if factory is None else self._made(factory)
        if self._is_shared(key):
            self._built[key] = value
        return value

    def _is_shared(self, key: DependencyKey) -> bool:
        """Tell whether all dependants get one object, rather than each an object of its own."""
        factory = self._registry.get_factory(key)
        container: AsyncContainer | None = self._scope.container
        while factory is None and container is not None:
            factory = container.registry.get_factory(key)
            container = container.parent_container
        return factory is None or bool(factory.cache)

    def _found(self, key: DependencyKey) -> str:
        """Write the lines that get an object of a wider scope."""
        compiled_key = key.as_compilation_key()
        name, result = self._name("k", compiled_key), self._result()
        if compiled_key in self._scope.values:  # given to every connection
            self._lines.append(f"{result} = values[{name}]")
            return result
        is_of_connection = self._scope.container.registry.get_factory(key) is not None
        found = "found" if is_of_connection else "found_in_app"
        self._lines.append(
            f"{result} = {found}[{name}] if {name} in {found} else await scope.get({name})"
        )
        return result

    def _made(self, factory: Any) -> str:
        """Write the lines that build an object of the message's own scope."""
        if factory.when_dependencies:
            raise _NotPlainError
        match factory.type:
            case FactoryType.ALIAS:
                return self._value_of(factory.dependencies[0])
            case FactoryType.CONTEXT if factory.source is Message:
                return "message"
            case FactoryType.FACTORY if factory.provides.type_hint is Effects:
                self.takes_effects = True
                return "effects"
            case kind if kind in PLAIN:
                arguments = [self._value_of(key) for key in factory.dependencies]
                for name, key in factory.kw_dependencies.items():
                    arguments.append(f"{name}={self._value_of(key)}")
                result = self._result()
                if kind in GENERATORS and not never_waits(factory.source):
                    self.finalisers_wait = True
                call = f"{self._name('s', factory.source)}({', '.join(arguments)})"
                self._lines.append(PLAIN[kind].format(result=result, call=call))
                if is_user_of_the_program(factory):
                    place = self._name("p", factory.source)
                    self._lines.append(f"check_user({result}, {place})")
                return result
        raise _NotPlainError

    def _name(self, prefix: str, value: Any) -> str:
        name = f"{prefix}{len(self._names)}"
        self._names[name] = value
        return name

    def _result(self) -> str:
        return f"v{len(self._lines)}"


def is_user_of_the_program(factory: Any) -> bool:
    """Tell whether a factory is the program's own, and gives the `CurrentUser`."""
    module = getattr(factory.source, "__module__", None) or ""
    is_ours = module.partition(".")[0] == "websuckets"
    return factory.provides.type_hint is CurrentUser and not is_ours


def check_user_of(user: object, registry: Registry) -> None:
    """Check a user as `check_user` does, if the program provides it; else do nothing."""
    factory = registry.get_factory(DependencyKey(CurrentUser, ""))
    if factory is not None and is_user_of_the_program(factory):
        check_user(user, factory.source)


def check_user(user: object, source: Callable[..., Any]) -> None:
    """Raise `TypeError` for a user that a provider of the program has not made a `CurrentUser`.

    Otherwise a protected command would run for a `User` that nobody has verified.
    """
    if not isinstance(user, CurrentUser):
        raise TypeError(
            f"{where(source)}: a provider of CurrentUser gave an object of type "
            f"{type(user).__qualname__}; return CurrentUser(user), or raise NotAuthorized"
        )


def _begin(generator: AsyncGenerator[Any, None]) -> Awaitable[Any]:
    """Begin a generator, of which the event loop is not told; see above."""
    hooks = get_asyncgen_hooks()
    set_asyncgen_hooks(None, None)
    try:
        return generator.__anext__()
    finally:
        set_asyncgen_hooks(*hooks)
