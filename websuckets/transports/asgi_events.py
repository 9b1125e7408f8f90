"""Events and scopes of ASGI: https://asgi.readthedocs.io/en/stable/specs/www.html"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import quote

from websockets.datastructures import Headers
from websockets.http11 import Request

from websuckets.connections.admission import join_cookies
from websuckets.protocol.transport import HttpResponse

__all__ = [
    "AsgiEvent",
    "AsgiReceive",
    "AsgiScope",
    "AsgiSend",
    "encoded",
    "path_within",
    "request_of",
    "send_response",
]

AsgiEvent: TypeAlias = MutableMapping[str, Any]
AsgiScope: TypeAlias = MutableMapping[str, Any]
AsgiReceive: TypeAlias = Callable[[], Awaitable[AsgiEvent]]
AsgiSend: TypeAlias = Callable[[AsgiEvent], Awaitable[None]]


def request_of(scope: AsgiScope) -> Request:
    """Return the request, an opening handshake or another, with the path of the mount."""
    raw_path = scope.get("raw_path")
    path = quote(scope["path"]) if raw_path is None else raw_path.decode("latin-1")
    path, *_ = path.split("?")  # some servers leave the query in the path
    query = scope.get("query_string", b"").decode("latin-1")
    headers = Headers(
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in scope.get("headers", ())
    )
    join_cookies(headers)
    return Request(f"{path}?{query}" if query else path, headers)


def path_within(scope: AsgiScope) -> str:
    """Return the path below the mount point of the application."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    if path != root and not path.startswith(f"{root}/"):  # the root is only the beginning of a name
        return path
    return path[len(root) :] or "/"


async def send_response(
    response: HttpResponse, kind: str, send: AsgiSend, *, has_body: bool = True
) -> None:
    """Send a response by the events of ASGI whose types begin with ``kind``.

    ``has_body`` is false for the response to a HEAD request.
    """
    headers = encoded(response.all_headers().items())
    await send({"type": f"{kind}.start", "status": int(response.status), "headers": headers})
    await send({"type": f"{kind}.body", "body": response.body if has_body else b""})


def encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Return headers in the form of ASGI."""
    return [(name.lower().encode(), value.encode()) for name, value in headers]
