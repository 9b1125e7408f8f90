"""Error functions: functions of an app that map errors of the program to replies."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import anyio

from websuckets.commands.injected_function import InjectedFunction
from websuckets.exc import ClientError
from websuckets.limits import limit_text
from websuckets.runtime.failures import Failure, Meaning, judge, judge_mapped
from websuckets.runtime.incidents import log_incident
from websuckets.runtime.request_scope import RequestScope
from websuckets.runtime.scopes import OpenScope

__all__ = ["ErrorFunctions"]


@dataclass(frozen=True, slots=True)
class ErrorFunctions:
    """All error functions of an app, by the class of the errors that each of them maps."""

    functions: Mapping[type[Exception], InjectedFunction] = field(default_factory=dict)

    async def judge(
        self,
        name: str,
        error: BaseException,
        scope: OpenScope,
        request_scope: RequestScope,
        is_of_closed_connection: Callable[[BaseException], bool] = lambda error: False,
    ) -> Failure:
        """Return the meaning of an error for the client of the SESSION scope ``scope``.

        ``name`` is that of what failed, for the log. The error came out of ``request_scope``, in
        which all finalisers have run. If they took too long, nothing is mapped: maybe they have not
        rolled back.
        """
        cancelled = request_scope.cancelled
        if not self.functions or request_scope.is_late:
            return judge(error, cancelled, is_of_closed_connection)
        map_error = partial(self._map, scope, request_scope)
        failure = await judge_mapped(error, map_error, cancelled, is_of_closed_connection)
        if failure.meaning is Meaning.PROPAGATE and failure.error is not error:
            log_incident(name, error)  # nobody else gets this error
        return failure

    async def _map(
        self, scope: OpenScope, request_scope: RequestScope, error: Exception
    ) -> ClientError | None:
        """Call the function of the most specific class, whatever ended ``request_scope``."""
        function = self._function_for(error)
        if function is None:
            return None
        timeout = request_scope.finalize_timeout
        reply: object = None
        with anyio.move_on_after(timeout, shield=True) as life, request_scope.within(life) as own:
            reply = await function.run(scope, own, error)
        if life.cancelled_caught:
            limit = limit_text("finalize_timeout", timeout)
            raise TimeoutError(f"{function.name} took more than {timeout} seconds ({limit})")
        if reply is None or isinstance(reply, ClientError):
            return reply
        raise TypeError(
            f"{function.name} returned an object of type {type(reply).__qualname__}; it returns a "
            "ClientError, or None to leave the error an incident"
        )

    def _function_for(self, error: Exception) -> InjectedFunction | None:
        classes = type(error).__mro__
        return next((self.functions[cls] for cls in classes if cls in self.functions), None)
