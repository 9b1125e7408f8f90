"""Dependency injection: what is needed beside dishka itself."""

from dishka import FromComponent, FromDishka

from websuckets.di.container import setup_dishka
from websuckets.di.lock import lock_factory
from websuckets.di.providers import WebSucketsProvider, provide_context

__all__ = [
    "FromComponent",
    "FromDishka",
    "WebSucketsProvider",
    "lock_factory",
    "provide_context",
    "setup_dishka",
]
