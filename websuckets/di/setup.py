"""Use of a container that the program has built."""

from typing import Protocol

from dishka import AsyncContainer, Scope

from websuckets.exc import ConfigurationError

__all__ = ["setup_dishka"]


class DishkaApp(Protocol):
    """An app that runs with a container that the program has built."""

    def _use_container(self, container: AsyncContainer) -> None: ...


def setup_dishka(container: AsyncContainer, app: DishkaApp) -> None:
    """Let the app run with this container, which other frameworks may share.

    The container has ``app.providers``, and a provider of `CurrentUser` if commands are protected:
    ``make_async_container(*app.providers, SecurityProvider(), ..., lock_factory=lock_factory)``.
    Of two providers of a type the last one wins, so ``app.providers``, which has defaults, is
    first.
    The program that built the container closes it. A container of a later call takes its place.

    Raises `ConfigurationError` for anything but a container of APP scope, for an app that runs
    already, and for an app with providers or overrides of its own.
    """
    if not hasattr(app, "_use_container"):
        raise ConfigurationError(
            f"setup_dishka(container, app): {type(app).__name__} is not a WebSuckets app; other "
            "frameworks have their own, in dishka.integrations"
        )
    if not isinstance(container, AsyncContainer) or container.scope is not Scope.APP:
        raise ConfigurationError(
            f"setup_dishka({container!r}, app): pass what dishka's make_async_container() returns"
        )
    app._use_container(container)
