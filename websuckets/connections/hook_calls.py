"""Calls of the hooks of an app for one client, and the meaning of their errors for the client."""

import logging

import anyio
from websockets import CloseCode
from websockets.datastructures import MultipleValuesError

from websuckets.commands.error_functions import ErrorFunctions
from websuckets.commands.injected_function import InjectedFunction
from websuckets.commands.peer import Peer
from websuckets.exc import ClientError, HandshakeRefused, alone
from websuckets.limits import limit_text
from websuckets.protocol.close_codes import CloseReason
from websuckets.runtime.failures import Meaning, judge
from websuckets.runtime.incidents import log_incident
from websuckets.runtime.request_scope import RequestScopes
from websuckets.socket import MAX_REASON

__all__ = ["call_on_connect", "call_on_disconnect", "call_on_handshake", "shortened"]

logger: logging.Logger = logging.getLogger("websuckets")


async def call_on_handshake(
    hook: InjectedFunction, peer: Peer, errors: ErrorFunctions
) -> HandshakeRefused | None:
    """Call a hook of the handshake; return the response if the hook refuses the client.

    ``errors`` map errors that are not a response by themselves. Raises errors that end the
    handshake without a response.
    """
    try:
        await peer.scope.run(hook.run(peer.scope, peer.request_scope))
    except BaseException as error:
        failure = judge(error, peer.request_scope.cancelled)
        if _refusal_of(alone(failure.error)) is None:
            failure = await peer.scope.run_apart(
                errors.judge(hook.name, error, peer.scope, peer.request_scope)
            )
        if failure.meaning is Meaning.PROPAGATE:
            raise failure.error from failure.error.__cause__
        refusal = _refusal_of(alone(failure.error))
        if refusal is None:
            return HandshakeRefused(500, f"incident {log_incident(hook.name, failure.error)}")
        how = "HTTP" if refusal.close_code is None else "close code"
        code = refusal.close_code or refusal.status
        logger.info("%s refused %s: %s %d", hook.name, peer.socket.id, how, code)
        return refusal
    return None


def _refusal_of(error: BaseException) -> HandshakeRefused | None:
    """Return the response that an error stands for; ``None`` for a failure of the server."""
    if isinstance(error, HandshakeRefused):
        return error
    if isinstance(error, ClientError):
        return HandshakeRefused(403, str(error))
    if isinstance(error, MultipleValuesError):  # the hook asked for one, the client sent two
        return HandshakeRefused(400, f"the header {error} came more than once")
    return None


async def call_on_connect(
    hook: InjectedFunction, peer: Peer, errors: ErrorFunctions
) -> CloseReason | None:
    """Call an ``on_connect`` hook; return the close reason if the hook refuses the client.

    ``errors`` map errors of the hook. Raises errors that end the connection at once.
    """
    try:
        await peer.scope.run(hook.run(peer.scope, peer.request_scope))
    except BaseException as error:
        failure = await peer.scope.run_apart(
            errors.judge(hook.name, error, peer.scope, peer.request_scope, peer.is_of_its_end)
        )
        match failure.meaning:
            case Meaning.PROPAGATE:
                raise failure.error from failure.error.__cause__
            case Meaning.IGNORE:
                raise failure.error from None
            case Meaning.REPLY:
                logger.info("%s refused %s", hook.name, peer.socket.id)
                return CloseCode.POLICY_VIOLATION, shortened(str(failure.error))
        return CloseCode.INTERNAL_ERROR, f"incident {log_incident(hook.name, failure.error)}"
    return None


async def call_on_disconnect(
    hook: InjectedFunction, peer: Peer, request_scopes: RequestScopes, timeout: float | None
) -> None:
    """Call an ``on_disconnect`` hook for so many seconds at most, and log its failure.

    Raises errors that have to propagate.
    """
    with anyio.move_on_after(timeout, shield=True) as life:
        with request_scopes.begin(life) as request_scope:
            try:
                await peer.scope.run_apart(hook.run(peer.scope, request_scope))
            except BaseException as error:
                if judge(error, request_scope.cancelled).meaning is Meaning.PROPAGATE:
                    raise
                log_incident(hook.name, error)
    if life.cancelled_caught:
        limit = limit_text("finalize_timeout", timeout)
        log_incident(hook.name, TimeoutError(f"it took more than {timeout} seconds ({limit})"))


def shortened(reason: str) -> str:
    """Return as much of the reason as a close frame holds."""
    return reason.encode(errors="replace")[:MAX_REASON].decode(errors="ignore")
