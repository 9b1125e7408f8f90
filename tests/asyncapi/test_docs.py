"""`WebSuckets(docs=Docs())`: the document of an app, served beside its connections."""

import base64
import json
import sys
from typing import Any

import anyio
import httpx2
import pytest
import yaml
from anyio.abc import TaskStatus
from dishka import Provider, Scope, provide
from harness import app_with, connect, dial, errors, on_trio
from serving import Serving
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
from timeouts import TIMEOUT
from websockets.http11 import Request

from websuckets import AppTasks, CommandGroup, Docs, Limits, Payload, Socket, User, WebSuckets
from websuckets.exc import (
    ConfigurationError,
    Forbidden,
    HandshakeRefused,
    InvalidHandlerSignature,
    MissingProvider,
    NotAuthorized,
)

pytestmark = pytest.mark.anyio

SECRET = "postgresql://user:secret@database"

notes = CommandGroup("note")


@notes.command("add")
async def add(socket: Socket, text: Payload[str]) -> int:
    """Add a note."""
    return 1


def documented(**options: Any) -> WebSuckets:
    return app_with(notes, **{"docs": Docs(), "title": "<Notes>", **options})


async def get(server: Any, path: str, **headers: str) -> httpx2.Response:
    async with httpx2.AsyncClient(trust_env=False, timeout=TIMEOUT) as http:
        return await http.get(f"http://127.0.0.1:{server.port}{path}", headers=headers)


async def test_the_document_is_served_in_both_formats(on_sockets: Serving) -> None:
    app = documented()
    async with on_sockets(app) as server:
        as_json = await get(server, "/docs/asyncapi.json")
        assert (await get(server, "/docs/asyncapi.json")).text == as_json.text
        as_yaml = await get(server, "/docs/asyncapi.yaml?download=1")
    assert (as_json.status_code, as_yaml.status_code) == (200, 200)
    assert as_json.headers["content-type"] == "application/json"
    assert as_yaml.headers["content-type"] == "application/yaml"
    assert as_json.json() == yaml.safe_load(as_yaml.text) == app.asyncapi()
    for response in (as_json, as_yaml):
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-content-type-options"] == "nosniff"


async def test_the_document_is_made_once_for_all_who_ask(
    on_sockets: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = documented()
    made: list[WebSuckets] = []
    write = WebSuckets.asyncapi

    def asyncapi(self: WebSuckets) -> dict[str, Any]:
        made.append(self)
        return write(self)

    monkeypatch.setattr(WebSuckets, "asyncapi", asyncapi)
    texts: list[str] = []

    async def ask() -> None:
        texts.append((await get(server, "/docs/asyncapi.json")).text)

    async with on_sockets(app) as server:
        async with anyio.create_task_group() as asking:
            for _ in range(5):
                asking.start_soon(ask)
    assert made == [app]
    assert len(texts) == 5 and len(set(texts)) == 1


async def test_a_stopping_app_answers_503() -> None:
    started, go_on, stop = anyio.Event(), anyio.Event(), anyio.Event()
    group, servers = CommandGroup(), list[Any]()

    @group.command("wait")
    async def wait(socket: Socket) -> None:
        started.set()
        await go_on.wait()

    async def serve(*, task_status: TaskStatus[None]) -> None:
        async with app_with(group, docs=Docs()).serve("127.0.0.1", 0) as server:
            servers.append(server)
            task_status.started()
            await stop.wait()

    async with anyio.create_task_group() as tasks:
        await tasks.start(serve)
        async with dial(servers[0]) as client:
            await client.send("wait", id=1)
            await started.wait()
            assert (await get(servers[0], "/docs")).status_code == 200
            stop.set()
            with anyio.fail_after(TIMEOUT):
                while (await get(servers[0], "/docs")).status_code == 200:
                    pass
            answer = await get(servers[0], "/docs/asyncapi.json")
            assert (answer.status_code, answer.text) == (503, "stopping\n")
            go_on.set()


async def test_a_page_links_to_the_documents(on_sockets: Serving) -> None:
    async with on_sockets(documented()) as server:
        page = await get(server, "/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"] == "default-src 'none'"
    assert "<h1>&lt;Notes&gt; 0.1.0</h1>" in page.text and "<script" not in page.text
    for name in ("asyncapi.json", "asyncapi.yaml"):
        assert f'href="docs/{name}"' in page.text


@pytest.mark.parametrize("docs", [None, Docs(path="/internal/docs")])
async def test_other_paths_are_answered_as_before(on_sockets: Serving, docs: Docs | None) -> None:
    """Expect no document without ``docs``, and none at other paths."""
    async with on_sockets(documented(docs=docs, path="/ws")) as server:
        for path in ("/docs", "/docs/asyncapi.json", "/docs/other", "/docs/", "/internal/docs/x"):
            assert (await get(server, path)).status_code == 404
        assert (await get(server, "/ws")).status_code == 426
        assert (await get(server, "/health")).text == "ok\n"
        if docs is not None:
            assert (await get(server, "/internal/docs/asyncapi.json")).status_code == 200


async def test_clients_may_connect_at_the_path_of_the_docs(on_sockets: Serving) -> None:
    async with on_sockets(documented()) as server:
        async with connect(f"ws://127.0.0.1:{server.port}/docs") as client:
            await client.send('{"event": "note add", "payload": "milk"}')
            assert json.loads(await client.recv()) == {"event": "note add", "payload": 1}


class Accounts:
    def __init__(self) -> None:
        self.password = "secret"


class Storage(Provider):
    accounts = provide(Accounts, scope=Scope.APP)


async def by_password(request: Request, accounts: Accounts) -> bool:
    given = base64.b64encode(f"ann:{accounts.password}".encode()).decode()
    return request.headers.get("Authorization") == f"Basic {given}"


async def test_who_is_not_authorised_gets_401(on_sockets: Serving) -> None:
    """Expect that for each page, and nothing about what exists; unknown paths stay unknown."""
    app = documented(docs=Docs(authorize=by_password), providers=[Storage()], path="/ws")
    async with on_sockets(app) as server:
        for path in ("/docs", "/docs/asyncapi.json", "/docs/asyncapi.yaml"):
            refused = await get(server, path)
            assert (refused.status_code, refused.text) == (401, "Unauthorized\n")
            assert refused.headers["www-authenticate"] == 'Basic realm="docs", charset="UTF-8"'
            wrong = await get(server, path, Authorization="Basic YW5uOndyb25n")
            assert wrong.status_code == 401
            right = await get(server, path, Authorization="Basic YW5uOnNlY3JldA==")
            assert right.status_code == 200
        assert (await get(server, "/docs/other")).status_code == 404
        assert (await get(server, "/ws")).status_code == 426


async def test_the_function_sees_the_request(on_sockets: Serving) -> None:
    """Expect its path with the query, and its headers, in a function that is not async."""
    seen: list[tuple[str, str | None]] = []

    def authorize(request):  # type: ignore[no-untyped-def]  # hints are not needed
        seen.append((request.path, request.headers.get("X-Key")))
        return True

    async with on_sockets(documented(docs=Docs(authorize=authorize))) as server:
        headers = {"X-Key": "7"}
        assert (await get(server, "/docs/asyncapi.json?a=b", **headers)).status_code == 200
    assert seen == [("/docs/asyncapi.json?a=b", "7")]


@pytest.mark.parametrize(
    ("error", "status", "text", "incidents"),
    [
        (NotAuthorized(SECRET), 401, "Unauthorized\n", 0),
        (Forbidden("not you"), 403, "not you\n", 0),
        (HandshakeRefused(302, headers={"Location": "/login"}), 302, "", 0),
        (RuntimeError(SECRET), 500, "incident ", 1),
        (KeyError("Authorization"), 500, "incident ", 1),
    ],
)
async def test_an_error_decides_about_the_answer(
    on_sockets: Serving,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    status: int,
    text: str,
    incidents: int,
) -> None:
    async def authorize(request: Request) -> bool:
        raise error

    async with on_sockets(documented(docs=Docs(authorize=authorize))) as server:
        response = await get(server, "/docs/asyncapi.json")
    assert response.status_code == status
    assert response.text.startswith(text) and SECRET not in response.text
    assert response.headers.get("location") == ("/login" if status == 302 else None)
    assert len(errors(caplog)) == incidents


async def test_a_function_that_takes_too_long_is_an_incident(
    on_sockets: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    async def authorize(request: Request) -> bool:
        await anyio.sleep_forever()
        return True

    docs = Docs(authorize=authorize)
    async with on_sockets(documented(docs=docs, limits=Limits(handler_timeout=0.05))) as server:
        response = await get(server, "/docs/asyncapi.json")
    assert response.status_code == 500 and response.text.startswith("incident ")
    assert len(errors(caplog)) == 1


async def test_a_header_that_comes_twice_is_the_fault_of_the_client(
    on_sockets: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    def authorize(request: Request) -> bool:
        return request.headers["X-Key"] == "7"

    async with on_sockets(documented(docs=Docs(authorize=authorize))) as server:
        async with httpx2.AsyncClient(trust_env=False, timeout=TIMEOUT) as http:
            url = f"http://127.0.0.1:{server.port}/docs"
            response = await http.get(url, headers=[("X-Key", "7"), ("X-Key", "8")])
    assert response.status_code == 400
    assert errors(caplog) == []


async def test_yaml_without_its_extra_is_told(
    on_sockets: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    async with on_sockets(documented()) as server:
        assert (await get(server, "/docs/asyncapi.yaml")).status_code == 501
        assert (await get(server, "/docs/asyncapi.json")).status_code == 200


# Under ASGI ---------------------------------------------------------------------------------------


@pytest.mark.on_asyncio
async def test_the_links_of_a_mounted_app_lead_to_its_documents() -> None:
    if on_trio():
        pytest.skip("Starlette's client starts asyncio")
    app = documented()
    host = Starlette(routes=[Mount("/live", app.asgi)], lifespan=app.lifespan)
    with TestClient(host) as client:
        page = client.get("/live/docs")
        link = page.text.partition('href="')[2].partition('"')[0]
        found = client.get(httpx2.URL("http://testserver/live/docs").join(link).path)
        assert json.loads(found.text) == app.asyncapi()
        assert client.get("/docs/asyncapi.json").status_code == 404


async def asked(app: WebSuckets, path: str, **scope: Any) -> list[Any]:
    sent: list[Any] = []

    async def send(event: Any) -> None:
        sent.append(event)

    request = {"type": "http", "method": "GET", "path": path, "headers": [], **scope}
    await app.asgi(request, None, send)  # type: ignore[arg-type]  # nothing is received
    return sent


async def test_a_head_request_gets_no_body() -> None:
    start, body = await asked(documented(), "/docs/asyncapi.json", method="HEAD")
    assert start["status"] == 200 and body["body"] == b""


async def test_an_app_that_was_not_started_has_no_document_yet(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = documented(providers=[Storage()])
    start, body = await asked(app, "/docs/asyncapi.json")
    assert (start["status"], body["body"][:9]) == (503, b"incident ")
    assert len(errors(caplog)) == 1
    async with app.lifespan():
        start, _ = await asked(app, "/docs/asyncapi.json")
        assert start["status"] == 200


# Mistakes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Docs("docs"), "Docs: path='docs': a path begins with a \"/\"; write '/docs'"),
        (lambda: Docs("/docs/"), "it ends in a slash, and the documents stand below it; write"),
        (lambda: Docs("/"), "it ends in a slash, and the documents stand below it; write '/docs'"),
        (lambda: Docs(None), "without docs=..., there are no pages"),  # type: ignore[arg-type]  # refused
        (lambda: Docs(authorize=True), "write a function of the request"),  # type: ignore[arg-type]  # refused
        (lambda: WebSuckets(docs=True), "docs=True: write Docs(...)"),  # type: ignore[arg-type]  # refused
        (lambda: WebSuckets(docs=Docs("/health")), "health='/health': it is a path of Docs("),
        (lambda: WebSuckets(title=""), "title='': write a str that is not empty"),
        (lambda: WebSuckets(version=1), "version=1: write a str"),  # type: ignore[arg-type]  # refused
    ],
)
def test_values_that_are_not_valid_are_refused(make: Any, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert text in str(caught.value)


async def no_request() -> bool: ...
async def of_a_user(user: User) -> bool: ...
async def with_payload(request: Request, text: Payload[str]) -> bool: ...
async def that_yields(request: Request) -> Any:
    yield True


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (no_request, "it has no parameter for the request; put it first: `request: Request`"),
        (of_a_user, "the first parameter, `user: User`, is not the request; put the request first"),
        (with_payload, "an HTTP request is not a message, so there is no payload"),
        (that_yields, "it yields; it returns True or False"),
    ],
)
def test_functions_that_cannot_be_called_are_refused(function: Any, text: str) -> None:
    with pytest.raises(InvalidHandlerSignature) as caught:
        WebSuckets(docs=Docs(authorize=function))
    assert text in str(caught.value) and "test_docs.py, line" in str(caught.value)


async def of_the_connection(request: Request, user: User) -> bool: ...
async def of_nothing(request: Request, accounts: Accounts) -> bool: ...


@pytest.mark.parametrize(
    ("function", "text"),
    [(of_the_connection, "a request for the document has none"), (of_nothing, "Accounts")],
)
async def test_dependencies_are_proved_at_the_start(function: Any, text: str) -> None:
    app = documented(docs=Docs(authorize=function))
    with pytest.raises((MissingProvider, ConfigurationError), match=text):
        async with app.serve("127.0.0.1", 0):
            pass


async def test_the_function_may_use_tasks_of_the_app(on_sockets: Serving) -> None:
    ran = anyio.Event()

    async def note() -> None:
        ran.set()

    async def authorize(request: Request, tasks: AppTasks) -> bool:
        tasks.start_soon(note)
        return True

    async with on_sockets(documented(docs=Docs(authorize=authorize))) as server:
        assert (await get(server, "/docs")).status_code == 200
        with anyio.fail_after(TIMEOUT):
            await ran.wait()
