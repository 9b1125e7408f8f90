"""Containers: their types and scopes."""

from collections.abc import Callable
from typing import Annotated, Any, Generic, NewType, TypeVar

import pytest
from dishka import AnyOf, BaseScope, FromComponent, Has, Provider, Scope

from websuckets.di.graph import scopes_of
from websuckets.serving.container import build_container

pytestmark = pytest.mark.anyio

T = TypeVar("T")


class One: ...


class Two: ...


class Three: ...


class Repository(Generic[T]):
    def __init__(self, of: type[T]) -> None: ...


Name = NewType("Name", str)


def providing(scope: BaseScope, *sources: Callable[..., Any], component: str = "") -> Provider:
    provider = Provider(scope=scope, component=component)
    for source in sources:
        provider.provide(source)
    return provider


async def test_in_which_scope_something_is_provided() -> None:
    """The scopes of plain types, NewTypes, generics, aliases, decorated and component types."""

    def both() -> AnyOf[Two, Three]:
        return Two()

    def decorate(one: One) -> One:
        return one

    def repository() -> Repository[T]: ...

    def name() -> Name:
        return Name("")

    app = providing(Scope.APP, One)
    app.decorate(decorate)

    class Conditional: ...

    class AliasOfConditional: ...

    conditional = Provider()
    conditional.provide(Conditional, scope=Scope.REQUEST)
    conditional.provide(Conditional, scope=Scope.SESSION, when=Has(One))
    conditional.alias(Conditional, provides=AliasOfConditional)
    container = build_container(
        [
            conditional,
            app,
            providing(Scope.SESSION, both),
            providing(Scope.REQUEST, repository),
            providing(Scope.ACTION, name),
            providing(Scope.RUNTIME, One, component="billing"),
        ],
        [],
    )
    billing = FromComponent("billing")
    for hint, scopes in {
        One: {Scope.APP},
        Annotated[One, "doc"]: {Scope.APP},
        Two: {Scope.SESSION},
        Three: {Scope.SESSION},
        Repository[int]: {Scope.REQUEST},
        Name: {Scope.ACTION},
        Annotated[One, billing]: {Scope.RUNTIME},
        Annotated[Two, billing]: set(),
        int: set(),
        Conditional: {Scope.SESSION, Scope.REQUEST},
        AliasOfConditional: {Scope.SESSION, Scope.REQUEST},
    }.items():
        assert scopes_of(container, hint) == scopes, hint
    await container.close()
