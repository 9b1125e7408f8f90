"""Dependency injection: what is needed beside dishka itself."""

from dishka import FromDishka

from websuckets.di.lock import lock_factory
from websuckets.di.providers import provide_context

__all__ = ["FromDishka", "lock_factory", "provide_context"]
