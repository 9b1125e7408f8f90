"""Dependency injection: additions to dishka."""

from dishka import FromComponent, FromDishka

from websuckets.di.context_managers import provide_context
from websuckets.di.injectables import WebSucketsProvider
from websuckets.di.lock import lock_factory
from websuckets.di.scope_factory import ScopeFactory
from websuckets.di.setup import setup_dishka

__all__ = [
    "FromComponent",
    "FromDishka",
    "ScopeFactory",
    "WebSucketsProvider",
    "lock_factory",
    "provide_context",
    "setup_dishka",
]
