"""Admission of clients: from which page, to which path, through which proxy."""

import logging
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import anyio
import pytest
from harness import app_with, dial, errors, get
from peers import Gone, tcp
from serving import Serving, uvicorn_running
from starlette.applications import Starlette
from starlette.routing import Mount
from timeouts import TIMEOUT
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.http11 import Request

from websuckets import CommandGroup, Limits, Socket, WebSuckets
from websuckets.connections.admission import Admission, client_of
from websuckets.exc import ConfigurationError, HandshakeRefused
from websuckets.socket import path_of
from websuckets.testing import TestClient
from websuckets.transports.asgi_events import path_within

pytestmark = pytest.mark.anyio

PAGE = "https://example.org"


@pytest.fixture
def group() -> CommandGroup:
    group = CommandGroup()

    @group.command("address")
    async def address(socket: Socket) -> Any:
        return socket.remote_address[0]

    @group.command("subprotocol")
    async def subprotocol(socket: Socket) -> Any:
        return socket.subprotocol

    return group


async def status(server: Any, path: str = "/", **headers: str) -> int:
    """Return the status that a connecting client gets: 101, or the status of a refusal."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    at = type(server)(server.port, (f"ws://127.0.0.1:{server.port}{path}",))
    try:
        async with dial(at, additional_headers=names) as client:
            assert (await client.call("subprotocol", id=1))["id"] == 1
            return 101
    except InvalidStatus as refused:
        return int(refused.response.status_code)


@pytest.mark.parametrize(
    ("origins", "origin", "expected"),
    [
        (None, {}, 101),
        (None, {"Origin": "https://evil.example"}, 101),
        ([PAGE], {"Origin": PAGE}, 101),
        ([PAGE], {"Origin": "https://evil.example"}, 403),
        ([PAGE], {"Origin": f"{PAGE}.evil.example"}, 403),
        ([PAGE], {"Origin": f"{PAGE}:8443"}, 403),
        ([PAGE], {"Origin": "http://example.org"}, 403),
        ([PAGE], {"Origin": "null"}, 403),
        ([PAGE], {"Origin": ""}, 403),
        ([PAGE], {}, 403),
        ([PAGE, None], {}, 101),
        ([None], {"Origin": PAGE}, 403),
        ([], {"Origin": PAGE}, 403),
    ],
)
async def test_pages_that_may_connect(
    on_sockets: Serving, group: CommandGroup, origins: Any, origin: dict[str, str], expected: int
) -> None:
    """Expect origins to be compared as a whole; a missing origin is not a page."""
    async with on_sockets(app_with(group, origins=origins)) as server:
        assert await status(server, **origin) == expected


async def test_two_origins_are_none(group: CommandGroup) -> None:
    """Expect a refusal of two origins, which no browser sends."""
    admission = Admission.of([PAGE], (), (), None, None)
    twice = Headers([("Origin", PAGE), ("Origin", PAGE)])
    refusal = admission.refusal("/", twice)
    assert refusal is not None
    assert refusal.status == 403


@pytest.mark.parametrize(
    ("path", "asked", "expected"),
    [
        (None, "/anywhere?x=1", 101),
        ("/ws", "/ws", 101),
        ("/ws", "/ws?token=1", 101),
        ("/ws", "/", 404),
        ("/ws", "/ws/", 404),
        ("/ws", "/wsx", 404),
        ("/чат", "/%D1%87%D0%B0%D1%82", 101),
    ],
)
async def test_where_clients_connect(
    on_sockets: Serving, group: CommandGroup, path: str | None, asked: str, expected: int
) -> None:
    """Expect 404 at any other path."""
    async with on_sockets(app_with(group, path=path)) as server:
        assert await status(server, asked) == expected


async def test_the_health_of_an_app(on_sockets: Serving, group: CommandGroup) -> None:
    """Expect health at the same port, without an upgrade; other requests get 426."""
    async with on_sockets(app_with(group, path="/ws")) as server:
        assert await get(server, "/health") == 200
        assert await get(server, "/health?verbose=1") == 200
        assert await get(server, "/ws") == 426
        assert await get(server, "/") == 404
    async with on_sockets(app_with(group, health="/live")) as server:
        assert await get(server, "/live") == 200
        assert await get(server, "/health") == 426
    async with on_sockets(app_with(group, health=None)) as server:
        assert await get(server, "/health") == 426


@pytest.mark.on_asyncio
async def test_paths_of_a_mounted_app(group: CommandGroup) -> None:
    """Expect paths to be relative to the place where the app is mounted."""
    app = app_with(group, path="/chat")
    host = Starlette(routes=[Mount("/ws", app.asgi)])
    async with uvicorn_running(host, lifespan="off") as server:
        assert await status(server, "/ws/chat") == 101
        assert await status(server, "/ws/") == 404
        assert await get(server, "/ws/health") == 200
        assert await get(server, "/ws/chat") == 426
        assert await get(server, "/health") == 404


async def test_asking_for_the_head_alone(on_sockets: Serving, group: CommandGroup) -> None:
    """Expect the head of the answer to a GET, and no body."""
    request = b"HEAD /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    async with on_sockets(app_with(group)) as server, await stream_to(server) as stream:
        await stream.send(request)
        answer = b""
        with anyio.fail_after(TIMEOUT), suppress(anyio.EndOfStream):
            while True:
                answer += await stream.receive()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"content-length: 3" in head.lower()
    assert body == b""


async def stream_to(server: Any) -> Any:
    return await anyio.connect_tcp("127.0.0.1", server.port)


async def test_health_while_the_app_stops(group: CommandGroup) -> None:
    """Expect 503 for health, and for new clients, while any connection has something to finish."""
    started, go_on = anyio.Event(), anyio.Event()

    @group.command("wait")
    async def wait(socket: Socket) -> None:
        started.set()
        await go_on.wait()

    ready, stop = anyio.Event(), anyio.Event()
    servers: list[Any] = []

    async def serve() -> None:
        async with app_with(group).serve("127.0.0.1", 0) as server:
            servers.append(server)
            ready.set()
            await stop.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        await ready.wait()
        async with dial(servers[0]) as client:
            await client.send("wait", id=1)
            await started.wait()
            assert await get(servers[0], "/health") == 200
            stop.set()
            with anyio.fail_after(TIMEOUT):
                while await get(servers[0], "/health") == 200:
                    pass
            assert await get(servers[0], "/health") == 503
            assert await status(servers[0]) == 503
            go_on.set()
            assert (await client.receive())["id"] == 1
            assert (await client.closed())[0] == 1012


class Hooked:
    """A record of what an ``on_handshake`` hook has seen."""

    def __init__(self, group: CommandGroup, **options: Any) -> None:
        self.paths: list[str] = []
        self.cookies: list[str] = []
        self.app = app_with(group, **options)

        @self.app.on_handshake
        async def look(request: Request) -> None:
            self.paths.append(path_of(request))
            self.cookies.append(request.headers.get("Cookie", ""))


@pytest.mark.parametrize(
    "target", ["/secret", "/secret?", "/secret?a=%2F", "/%73ecret", "/secret#", "/secret#?/"]
)
async def test_a_path_has_one_name_however_it_is_written(
    on_sockets: Serving, group: CommandGroup, target: str
) -> None:
    """Expect one path in all ways to write it, so that no hook can be evaded by another way.

    Servers that find the way of writing wrong answer it themselves.
    """
    hooked = Hooked(group)
    async with on_sockets(hooked.app) as server, tcp(server.port) as peer:
        with suppress(Gone):
            head = await peer.open(target)
            assert hooked.paths == (["/secret"] if " 101 " in head.splitlines()[0] else [])
    assert hooked.paths in (["/secret"], [])


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/a/b", "/a/b"),
        ("//a", "//a"),
        ("/%2e%2e/a", "/../a"),
        ("/%ff", "/\ufffd"),
        ("http://example.org/a?b", "/a"),
        ("http://example.org", "/"),
        ("*", "*"),
        ("", ""),
    ],
)
def test_the_path_of_a_request(target: str, path: str) -> None:
    """Expect the path also of a request in the absolute form, which must not evade a comparison."""
    assert path_of(Request(target, Headers())) == path


@pytest.mark.parametrize(
    ("root", "path", "within"),
    [
        ("", "/ws", "/ws"),
        ("/", "/ws", "/ws"),
        ("/chat", "/chat/ws", "/ws"),
        ("/chat/", "/chat/ws", "/ws"),
        ("/chat", "/chat", "/"),
        ("/chat", "/chat/", "/"),
        ("/chat", "/chats", "/chats"),
        ("/chat", "/ws", "/ws"),
        ("/chat", "/", "/"),
    ],
)
def test_an_app_is_mounted_under_whole_names(root: str, path: str, within: str) -> None:
    """Expect no match for the beginning of a name; a proxy may have removed the name already."""
    assert path_within({"path": path, "root_path": root}) == within


COOKIES = [("Cookie", "theme=dark"), ("Cookie", "session=ann; a=1"), ("X-Other", "1")]


async def test_cookies_in_several_headers_are_one(on_sockets: Serving, group: CommandGroup) -> None:
    """Send several headers, as browsers do over HTTP/2 and any client may."""
    hooked = Hooked(group)
    async with on_sockets(hooked.app) as server:
        async with dial(server, additional_headers=COOKIES) as client:
            await client.call("subprotocol", id=1)
        async with dial(server) as client:
            await client.call("subprotocol", id=1)
    assert hooked.cookies == ["theme=dark; session=ann; a=1", ""]


async def test_cookies_in_several_headers_in_memory(group: CommandGroup) -> None:
    """Send several headers over the transport in memory."""
    hooked = Hooked(group)
    async with TestClient(hooked.app, headers=COOKIES):
        assert hooked.cookies == ["theme=dark; session=ann; a=1"]


async def test_more_cookies_than_anybody_needs_are_refused(
    on_sockets: Serving, group: CommandGroup
) -> None:
    """Expect a refusal before any hook parses the cookies, which may take it long."""
    hooked = Hooked(group)
    async with on_sockets(hooked.app) as server:
        for times, expected in ((1, 101), (2, 101), (3, 431)):
            headers = [("Cookie", "a=" + "1" * 7000)] * times
            try:
                async with dial(server, additional_headers=headers):
                    assert expected == 101
            except InvalidStatus as refused:
                assert refused.response.status_code == expected
    assert len(hooked.cookies) == 2


async def test_a_header_that_should_come_once_is_the_clients_mistake(
    on_sockets: Serving, group: CommandGroup, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the error not to be a failure of the hook that reads the header, nor in the log."""
    app = app_with(group)

    @app.on_handshake
    async def read(request: Request) -> None:
        request.headers["X-Account"]

    async with on_sockets(app) as server:
        assert await status(server, X_Account="1") == 101
        with pytest.raises(InvalidStatus) as refused:
            async with dial(server, additional_headers=[("X-Account", "1"), ("X-Account", "2")]):
                pass
        assert refused.value.response.status_code == 400
    assert errors(caplog) == []


async def test_the_first_subprotocol_of_the_app_that_is_offered_is_agreed_on(
    on_sockets: Serving, group: CommandGroup
) -> None:
    """Expect the first of the app's subprotocols that the client offers; none is accepted, too."""
    app = app_with(group, subprotocols=["chat.v2", "chat.v1"])
    async with on_sockets(app) as server:
        for offered, agreed in (
            (None, None),
            (["other"], None),
            (["chat.v1", "chat.v2", "other"], "chat.v2"),
            (["token.s3cret", "chat.v1"], "chat.v1"),
        ):
            async with dial(server, subprotocols=offered) as client:
                assert client.connection.subprotocol == agreed
                assert (await client.call("subprotocol", id=1))["payload"] == agreed


async def test_a_test_client_offers_subprotocols_like_a_real_one(group: CommandGroup) -> None:
    """Expect a test client to offer subprotocols as a real client does."""
    app = app_with(group, subprotocols=["chat.v2", "chat.v1"])
    async with TestClient(app, headers={"Sec-WebSocket-Protocol": "chat.v1, x"}) as client:
        assert (await client.call("subprotocol")).payload == "chat.v1"
        async with client.connect() as other:
            assert (await other.call("subprotocol")).payload is None


async def test_subprotocols_that_are_given_to_serve(group: CommandGroup) -> None:
    """Expect the option ``subprotocols`` of ``websockets`` to be applied."""
    app = app_with(group, subprotocols=["ignored"])
    async with app.serve("127.0.0.1", 0, subprotocols=["theirs"]) as server:
        async with dial(server, subprotocols=["theirs"]) as client:
            assert client.connection.subprotocol == "theirs"


async def test_the_address_of_a_client_behind_a_proxy(
    on_sockets: Serving, group: CommandGroup
) -> None:
    """Expect the address that a trusted proxy names, however many proxies stand between."""
    app = app_with(group, trusted_proxies=["127.0.0.0/8", "10.0.0.0/8"])
    forwarded = {"X-Forwarded-For": "1.1.1.1, 203.0.113.9, 10.1.2.3"}
    async with on_sockets(app) as server, dial(server, additional_headers=forwarded) as client:
        assert (await client.call("address"))["payload"] == "203.0.113.9"


@pytest.mark.on_asyncio
async def test_nobody_else_says_where_a_client_is(group: CommandGroup) -> None:
    """Expect the header to be ignored without a trusted proxy: the client may have written it."""
    forwarded = {"X-Forwarded-For": "203.0.113.9"}
    async with app_with(group).serve("127.0.0.1", 0) as server:
        async with dial(server, additional_headers=forwarded) as client:
            assert (await client.call("address"))["payload"] == "127.0.0.1"


TRUSTED = Admission.of(None, ["10.0.0.0/8", "unix", "2001:db8::/32"], (), None, None)


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        (("192.0.2.1", 5), ["203.0.113.9"], ("192.0.2.1", 5)),
        (("10.0.0.1", 5), [], ("10.0.0.1", 5)),
        (("10.0.0.1", 5), [""], ("10.0.0.1", 5)),
        (("10.0.0.1", 5), ["203.0.113.9"], ("203.0.113.9", 0)),
        (("10.0.0.1", 5), ["203.0.113.9:4711"], ("203.0.113.9", 0)),
        (("10.0.0.1", 5), ["[2001:db9::1]:4711"], ("2001:db9::1", 0)),
        (("10.0.0.1", 5), ["[2001:db9::1]"], ("2001:db9::1", 0)),
        (("10.0.0.1", 5), ["2001:db9::1"], ("2001:db9::1", 0)),
        (("10.0.0.1", 5), ["1.1.1.1", "203.0.113.9", "10.2.2.2"], ("203.0.113.9", 0)),
        (("10.0.0.1", 5), ["203.0.113.9, unknown"], ("10.0.0.1", 5)),
        (("10.0.0.1", 5), ["203.0.113.9, ", ","], ("203.0.113.9", 0)),
        (("10.0.0.1", 5), ["10.2.2.2"], ("10.0.0.1", 5)),
        (("10.0.0.1", 5), ["1," * 4000 + "203.0.113.9"], ("203.0.113.9", 0)),
        (("10.0.0.1", 5), ["1," * 4000] * 60 + ["203.0.113.9"], ("203.0.113.9", 0)),
        (("10.0.0.1", 5), ["203.0.113.9" + ",10.2.2.2" * 31], ("203.0.113.9", 0)),
        (("10.0.0.1", 5), ["203.0.113.9" + ",10.2.2.2" * 32], ("10.0.0.1", 5)),
        (("10.0.0.1", 5), ["203.0.113.9", "," * 8000], ("10.0.0.1", 5)),
        (("10.0.0.1", 5), ["1" * 8000], ("10.0.0.1", 5)),
        (("::ffff:10.0.0.1", 5, 0, 0), ["203.0.113.9"], ("203.0.113.9", 0)),
        (("2001:db8::1%eth0", 5, 0, 0), ["203.0.113.9"], ("203.0.113.9", 0)),
        ("", ["203.0.113.9"], ("203.0.113.9", 0)),
        (None, ["203.0.113.9"], ("203.0.113.9", 0)),
        (("testclient", 5), ["203.0.113.9"], ("testclient", 5)),
    ],
)
def test_what_a_proxy_is_believed(peer: Any, forwarded: list[str], client: Any) -> None:
    """Expect the last address that is not a trusted proxy, and no text that is not an address."""
    headers = Headers([("X-Forwarded-For", value) for value in forwarded])
    assert TRUSTED.address_of(peer, headers) == client


def test_addresses_before_the_clients_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect addresses before the client's, of which it may send any number, not to be read."""
    looked_at: list[str] = []

    def recorded(host: str) -> Any:
        looked_at.append(host)
        return ip_address(host)

    monkeypatch.setattr("websuckets.connections.admission.ip_address", recorded)
    headers = Headers([("X-Forwarded-For", "198.51.100.1, " * 500 + "203.0.113.9, 10.2.2.2")])
    assert TRUSTED.address_of(("10.0.0.1", 5), headers) == ("203.0.113.9", 0)
    assert set(looked_at) == {"10.0.0.1", "10.2.2.2", "203.0.113.9"}


def test_proxies_may_be_written_as_mapped_addresses() -> None:
    """Expect mapped addresses of proxies to equal their IPv4 addresses."""
    admission = Admission.of(None, ["::ffff:10.0.0.0/104"], (), None, None)
    headers = Headers([("X-Forwarded-For", "203.0.113.9")])
    assert admission.address_of(("10.1.2.3", 5), headers) == ("203.0.113.9", 0)
    assert admission.address_of(("11.1.2.3", 5), headers) == ("11.1.2.3", 5)


def test_a_unix_socket_is_not_trusted_by_itself() -> None:
    """Expect no trust in a unix socket by itself: whoever may write to it could say anything."""
    admission = Admission.of(None, ["10.0.0.0/8"], (), None, None)
    assert admission.address_of("", Headers([("X-Forwarded-For", "203.0.113.9")])) == ""


def test_what_tells_clients_apart() -> None:
    """Expect clients to be told apart by IPv4 address or IPv6 network, without the port."""
    assert client_of(("10.0.0.1", 1)) == client_of(("10.0.0.1", 2))
    assert client_of(("10.0.0.1", 1)) != client_of(("10.0.0.2", 1))
    assert client_of(("2001:db8::1", 1, 0, 0)) == client_of(("2001:db8::2%eth0", 2, 0, 0))
    assert client_of(("2001:db8::1", 1)) != client_of(("2001:db8:0:1::1", 1))
    assert client_of(("::ffff:10.0.0.1", 1)) == client_of(("10.0.0.1", 1))
    assert client_of(("testclient", 1)) == "testclient"
    assert client_of("") == ""
    assert client_of(None) is None


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "file://",
        "capacitor://localhost",
        "chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb",
        "http://[::1]:8000",
        "http://127.0.0.1:8000",
        "HTTPS://Example.org",
        "https://example.org.",
        "https://xn--bcher-kva.example",
        "http://my_host",
    ],
)
async def test_origins_that_clients_send_may_be_listed(group: CommandGroup, origin: str) -> None:
    """List origins of any scheme, and send them in lower and upper case."""
    app = app_with(group, origins=[origin])
    for sent in (origin, origin.upper()):
        async with TestClient(app, headers={"Origin": sent}) as client:
            assert (await client.call("subprotocol")).payload is None
    for other in ({"Origin": "https://evil.example"}, {}):
        with pytest.raises(HandshakeRefused):
            async with TestClient(app, headers=other):
                pass


async def test_clients_without_a_page_do_not_stand_for_pages_without_an_origin(
    group: CommandGroup,
) -> None:
    """Expect ``None`` among the origins not to admit a sandboxed frame."""
    with pytest.raises(HandshakeRefused):
        async with TestClient(app_with(group, origins=[None]), headers={"Origin": "null"}):
            pass


@pytest.mark.parametrize(
    ("origin", "remedy"),
    [
        ("https://*.example.org", "patterns are not supported: list every origin"),
        ("https://example.org:*", "patterns are not supported: list every origin"),
        ("*", "to let every page connect, leave out origins="),
        ("https://example.org:443", 'write "https://example.org"'),
        ("http://example.org:80", 'write "http://example.org"'),
        ("http://example.org:", 'write "http://example.org"'),
        ("https://example.org:08443", 'write "https://example.org:8443"'),
        ("https://example.org:99999", 'write "https://example.org"; None'),
        ("https://example.org ", 'write "https://example.org"'),
        (" null", 'write "null"'),
        ("https://user:password@example.org", 'write "https://example.org"'),
        ("https://example.org/app", 'write "https://example.org"'),
        ("https://example.org?x", 'write "https://example.org"'),
        ("https://example.org#x", 'write "https://example.org"'),
        ("file:///", 'write "file://"'),
        ("wss://example.org:443", 'write "https://example.org"'),
        ("ws://localhost:8000", 'write "http://localhost:8000"'),
        ("https://bücher.example", 'write "https://xn--bcher-kva.example"'),
        ("http://[0:0::1]:8000", 'write "http://[::1]:8000"'),
        ("http://[::1:8000", 'write "https://example.org"; None'),
        ("http://[:::1]", 'write "https://example.org"; None'),
        ("http://127.1", 'write "https://example.org"; None'),
        ("https://.example.org", 'write "https://example.org"; None'),
        ("https://" + "ü" * 100, 'write "https://example.org"; None'),
        ("https://", 'write "https://example.org"; None'),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str, remedy: str) -> None:
    """Expect an error that says what to write: the origin would silently lock the page out."""
    with pytest.raises(ConfigurationError) as refused:
        WebSuckets(origins=[origin])
    assert remedy in str(refused.value)


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ({"origins": PAGE}, "write a list"),
        ({"origins": ["example.org"]}, "scheme, host and port"),
        ({"origins": [f"{PAGE}/"]}, "scheme, host and port"),
        ({"origins": [5]}, "scheme, host and port"),
        ({"origins": 5}, "write a list"),
        ({"origins": b"null"}, "write a list"),
        ({"trusted_proxies": "10.0.0.1"}, "write a list"),
        ({"trusted_proxies": ["10.0.0.1/8"]}, "host bits set"),
        ({"trusted_proxies": ["proxy.example.org"]}, "addresses, networks"),
        ({"trusted_proxies": [" 10.0.0.1"]}, "addresses, networks"),
        ({"trusted_proxies": ["*"]}, "addresses, networks"),
        ({"trusted_proxies": [10]}, "a str, not int"),
        ({"trusted_proxies": ["0.0.0.0/0"]}, "nobody is a client"),
        ({"trusted_proxies": ["::/0"]}, "nobody is a client"),
        ({"trusted_proxies": ["::ffff:0.0.0.0/96"]}, "nobody is a client"),
        ({"subprotocols": "chat"}, "write a list"),
        ({"subprotocols": ["chat, v2"]}, "a token of RFC 9110"),
        ({"subprotocols": ["chat v2"]}, "a token of RFC 9110"),
        ({"subprotocols": [""]}, "a token of RFC 9110"),
        ({"subprotocols": ["чат"]}, "a token of RFC 9110"),
        ({"subprotocols": [2]}, "a token of RFC 9110"),
        ({"subprotocols": ["chat", "chat"]}, "stands there twice"),
        ({"path": "ws"}, 'begins with a "/"'),
        ({"path": 5}, 'begins with a "/"'),
        ({"path": "/ws?room=1"}, "write '/ws'"),
        ({"path": "/ws#room"}, "write '/ws'"),
        ({"path": "/%D1%87%D0%B0%D1%82"}, "write '/чат'"),
        ({"path": "/a/../ws"}, "without them"),
        ({"health": "/./health"}, "without them"),
        ({"health": "/health?"}, "write '/health'"),
        ({"health": "health"}, 'begins with a "/"'),
    ],
)
def test_what_can_mean_nothing_is_refused(wrong: dict[str, Any], remedy: str) -> None:
    """Expect an error that says what to write instead."""
    with pytest.raises(ConfigurationError, match=remedy):
        WebSuckets(**wrong)


async def test_why_a_handshake_was_refused_is_logged(
    on_sockets: Serving, group: CommandGroup, caplog: pytest.LogCaptureFixture
) -> None:
    """Expect the reason and the origin, which is cut and escaped."""
    caplog.set_level(logging.INFO)
    app = app_with(group, origins=[PAGE], path="/ws", limits=Limits(max_connections_per_ip=0))
    async with on_sockets(app) as server:
        assert await status(server, "/ws", Origin=PAGE) == 429
    app = app_with(group, origins=[PAGE], path="/ws")
    async with on_sockets(app) as server:
        assert await status(server, "/sw", Origin=PAGE) == 404
        assert await status(server, "/ws") == 403
        assert await status(server, "/ws", Origin="https://a'\xe9" + "x" * 500) == 403
    texts = [r.getMessage() for r in caplog.records if r.getMessage().startswith("refused ")]
    assert [text.partition(": ")[2] for text in texts] == [
        "HTTP 429, too many connections of its address are open "
        "(Limits.max_connections_per_ip is 0)",
        "HTTP 404, the path is not that of WebSuckets(path=...)",
        "HTTP 403, the origin is not among WebSuckets(origins=[...]); its origin: none",
        "HTTP 403, the origin is not among WebSuckets(origins=[...]); its origin: "
        + ascii(("https://a'\xe9" + "x" * 500)[:100]),
    ]
