"""Pages with the AsyncAPI document of an app, beside its connections: `Docs`."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from html import escape
from http import HTTPStatus
from typing import Any, Final

import anyio
from websockets.datastructures import MultipleValuesError
from websockets.http11 import Request

from websuckets.asyncapi.texts import as_json, as_yaml
from websuckets.commands.injected_function import InjectedFunction
from websuckets.connections.admission import checked_path
from websuckets.connections.setup import Setup
from websuckets.exc import (
    ClientError,
    ConfigurationError,
    HandshakeRefused,
    NotAuthorized,
    alone,
)
from websuckets.limits import limit_text
from websuckets.protocol.transport import HttpResponse
from websuckets.runtime.contexts import in_context
from websuckets.runtime.failures import Meaning, judge
from websuckets.runtime.incidents import log_incident
from websuckets.session import context_of

__all__ = ["Docs", "DocsPages"]


@dataclass(frozen=True, slots=True)
class Docs:
    """Pages with the AsyncAPI document of an app: ``WebSuckets(docs=Docs())``.

    A GET request gets the document at ``/docs/asyncapi.json``, as YAML at ``/docs/asyncapi.yaml``
    (with the extra ``yaml``), and a page with links to both at ``/docs``. ``path`` takes the place
    of ``/docs``; where the app is mounted, ``path`` is relative to the place where the app is
    mounted. The own server and ASGI serve these pages; without ``docs`` there are none.

    ``authorize``, a function, sync or async, decides about each request. Its first parameter is the
    request, a ``websockets.http11.Request`` with ``path`` and ``headers``; further parameters are
    dependencies, like those of an ``on_startup`` hook. Something true lets the request pass. For
    anything else, and for `NotAuthorized`, the answer is 401 and asks for a name and a password
    (Basic authentication); for any other `ClientError` it is 403, and `HandshakeRefused` is an
    answer of its own. Any other error, and a function that takes longer than
    `Limits.handler_timeout`, is an incident: the answer is 500. Without ``authorize`` anybody may
    read the document.

    Raises `ConfigurationError` for a ``path`` that clients cannot ask for, or that ends in a slash.
    """

    path: str = "/docs"
    """Path of the page; those of the documents begin with it."""
    authorize: Callable[..., bool | Awaitable[bool]] | None = None
    """Function that decides about requests; ``None`` lets all of them pass."""

    def __post_init__(self) -> None:
        if self.path is None or not checked_path("Docs: path", self.path):
            raise ConfigurationError("Docs(path=None): without docs=..., there are no pages")
        if self.path.endswith("/"):
            raise ConfigurationError(
                f"Docs(path={self.path!r}): it ends in a slash, and the documents stand below it; "
                f"write {self.path.rstrip('/') or '/docs'!r}"
            )
        if self.authorize is not None and not callable(self.authorize):
            raise ConfigurationError(
                f"Docs(authorize={self.authorize!r:.80}): write a function of the request"
            )

    @property
    def paths(self) -> tuple[str, str, str]:
        """Paths of the page, of the document as JSON, and as YAML."""
        return self.path, f"{self.path}/asyncapi.json", f"{self.path}/asyncapi.yaml"


class DocsPages:
    """Pages of one run of an app; each text is made once, when it is first asked for.

    ``document`` returns the document.
    """

    def __init__(self, docs: Docs, document: Callable[[], Mapping[str, Any]]) -> None:
        self._docs = docs
        self._document = document
        page, json, yaml = docs.paths
        self._make = {page: self._page, json: self._json, yaml: self._yaml}
        self._made: dict[str, HttpResponse] = {}
        self._lock = anyio.Lock()

    def covers(self, path: str) -> bool:
        """Tell whether there is a page at this path."""
        return path in self._make

    async def answer(self, path: str, request: Request, setup: Setup) -> HttpResponse:
        """Return a page, or the answer to a request that is not authorised."""
        for function in setup.hooks.docs:
            refusal = await _refusal(function, request, setup)
            if refusal is not None:
                return refusal
        if path not in self._made:
            async with self._lock:  # in a thread: hundreds of commands take seconds
                self._made[path] = await self._page_at(path)
        return self._made[path]

    async def _page_at(self, path: str) -> HttpResponse:
        """Return the page that was made while this task waited for it, or make the page."""
        made = self._made.get(path)
        return await anyio.to_thread.run_sync(self._make[path]) if made is None else made

    def _json(self) -> HttpResponse:
        return _response("application/json", as_json(self._document()))

    def _yaml(self) -> HttpResponse:
        document = self._document()
        try:
            text = as_yaml(document)
        except ConfigurationError:
            return HttpResponse(HTTPStatus.NOT_IMPLEMENTED, _NO_YAML, _HEADERS)
        return _response("application/yaml", text)

    def _page(self) -> HttpResponse:
        info = self._document()["info"]
        below = self._docs.path.rpartition("/")[2]  # relative: the app may be mounted anywhere
        title, version, below = map(escape, (info["title"], info["version"], below))
        text = _PAGE.format(title=title, version=version, below=below)
        return _response("text/html; charset=utf-8", text)


async def _refusal(
    function: InjectedFunction, request: Request, setup: Setup
) -> HttpResponse | None:
    """Return the answer to a request that the function does not authorise; ``None`` if it does.

    Raises errors that have to propagate.
    """
    timeout = setup.limits.handler_timeout
    is_authorised = False
    with anyio.move_on_after(timeout) as life, setup.request_scopes.begin(life) as request_scope:
        calling = function.run(setup.scope, request_scope, request)
        try:
            # Not the context of the request, which may be that of a host.
            is_authorised = bool(await in_context(context_of(setup.session).copy().run, calling))
        except BaseException as error:
            failure = judge(error, request_scope.cancelled)
            if failure.meaning is Meaning.PROPAGATE:
                raise
            return _answer_to(alone(failure.error), function.name)
    if life.cancelled_caught:
        limit = limit_text("handler_timeout", timeout)
        late = TimeoutError(f"it took more than {timeout} seconds ({limit})")
        return _answer_to(late, function.name)
    return None if is_authorised else _UNAUTHORISED


def _answer_to(error: BaseException, name: str) -> HttpResponse:
    """Return the answer for an error of the function with this name."""
    match error:
        case NotAuthorized():
            return _UNAUTHORISED
        case ClientError():
            return HttpResponse(HTTPStatus.FORBIDDEN, f"{error}\n", _HEADERS)
        case HandshakeRefused():
            return HttpResponse.of(error)
        case MultipleValuesError():  # the function asked for one header, the client sent two
            text = f"the header {error} came more than once\n"
            return HttpResponse(HTTPStatus.BAD_REQUEST, text, _HEADERS)
    text = f"incident {log_incident(name, error)}\n"
    return HttpResponse(HTTPStatus.INTERNAL_SERVER_ERROR, text, _HEADERS)


def _response(content_type: str, text: str) -> HttpResponse:
    return HttpResponse(HTTPStatus.OK, text, {"Content-Type": content_type, **_HEADERS})


_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'",
    "X-Content-Type-Options": "nosniff",
}

_UNAUTHORISED: Final = HttpResponse(
    HTTPStatus.UNAUTHORIZED,
    "Unauthorized\n",
    {"WWW-Authenticate": 'Basic realm="docs", charset="UTF-8"', **_HEADERS},
)

_NO_YAML: Final = "This server has no YAML (the extra yaml is not installed), but JSON.\n"

_PAGE: Final = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title} {version}</title>
<h1>{title} {version}</h1>
<p>AsyncAPI document:
<a href="{below}/asyncapi.json">JSON</a>,
<a href="{below}/asyncapi.yaml">YAML</a>
</html>
"""
