"""Injected functions: async functions that are called with their dependencies, as hooks are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from websuckets.commands.injection import Injection, injection_of
from websuckets.commands.signature import Plan, positional, read_hook
from websuckets.runtime.effects import Effects
from websuckets.runtime.finalisers import Exit
from websuckets.runtime.incidents import log_incident
from websuckets.runtime.request_scope import RequestScope
from websuckets.runtime.scopes import OpenScope

__all__ = ["InjectedFunction"]


@dataclass(frozen=True, slots=True)
class InjectedFunction:
    """An async function whose parameters are dependencies, maybe behind arguments of its caller."""

    name: str
    """Name for the log."""
    injection: Injection
    function: Callable[..., Any]
    """Function that is called with its dependencies by position."""

    @classmethod
    def of(cls, name: str, plan: Plan, absent: Mapping[Any, str]) -> "InjectedFunction":
        """Return the function of a plan; ``absent`` are types that it cannot get, and reasons."""
        return cls(name, injection_of(plan, absent=absent), positional(plan))

    @classmethod
    def of_framework(cls, name: str, function: Callable[..., Any]) -> "InjectedFunction":
        """Return a function of the framework itself."""
        return cls.of(name, read_hook(function, {}), {})

    async def run(self, scope: OpenScope, request_scope: RequestScope, *first: object) -> Any:
        """Call the function in a REQUEST scope of its own inside of ``scope``; return its result.

        ``first`` are arguments that stand before the dependencies. Effects run when the scope has
        closed without an error. Raises the error of the function or of a dependency, or else of
        their finalisers.
        """
        if not self.injection.needs_scope:
            return await self.function(*first)
        result: Any = None
        failure: BaseException | None = None
        exits: list[Exit] = []
        effects = Effects()
        try:
            dependencies = await scope.request({Effects: effects}, exits).get(self.injection.key)
            result = await self.function(*first, *dependencies)
            if effects.last_step is not None:
                await effects.last_step()
        except BaseException as error:
            failure = error
        try:
            unfinished = await request_scope.finalise(exits, failure)
            if failure is None:
                failure = unfinished
            elif unfinished is not None:
                log_incident(f"finalisers of {self.name!r}", unfinished)
            if failure is not None:
                raise failure
            await effects.run(repr(self.name), request_scope.finalize_timeout)
        finally:
            effects.discard()
            failure = None  # its traceback holds this frame
        return result
