"""Tests that tokens, passwords and cookies do not leak, whatever happens to a handshake."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import httpx2
import peers
import pytest
from canaries import CANARY, HEADERS, TARGET, TOKEN, VALUE, answers, app, errors_among, frame
from harness import dial
from peers import Gone, tcp
from serving import Serving
from timeouts import TIMEOUT
from websockets.exceptions import InvalidHandshake
from websockets.http11 import Request

from websuckets import Limits
from websuckets.app import Server
from websuckets.exc import ClientError, HandshakeRefused, NotAuthorized
from websuckets.security import HandshakeSecurityProvider, Identity

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("log_without_secrets")]


async def by_hook(request: Request) -> None:
    raise HandshakeRefused(401, "no")


async def by_name(request: Request) -> None:
    raise ClientError("no", VALUE)


async def by_bug(request: Request) -> None:
    raise RuntimeError("a bug")


async def not_at_all(request: Request) -> None: ...


@pytest.mark.parametrize("hook", [by_hook, by_name, by_bug, not_at_all])
@pytest.mark.parametrize("when", ["handshake", "connect", "disconnect"])
async def test_no_secret_of_a_handshake_shows(
    on_sockets: Serving, when: str, hook: Callable[[Request], Any]
) -> None:
    """Expect no secret of headers, cookies and query: accepted, refused, or failed."""
    served = app(trusted_proxies=["127.0.0.1"], subprotocols=[TOKEN])
    getattr(served, f"on_{when}")(hook)
    async with on_sockets(served) as server:
        assert CANARY not in await connected_to(server, TARGET, HEADERS)


@pytest.mark.parametrize(
    "arguments",
    [
        {"path": "/elsewhere"},
        {"origins": ["https://example.org"]},
        {"limits": Limits(max_connections=0)},
        {"limits": Limits(max_connections_per_ip=0)},
    ],
)
async def test_no_secret_of_a_refused_handshake_shows(
    on_sockets: Serving, arguments: dict[str, Any]
) -> None:
    """Expect no secret when a handshake is refused for its path, its origin or a full server."""
    async with on_sockets(app(**arguments)) as server:
        headers = {**HEADERS, "Origin": f"https://{VALUE}.example.org"}
        if "origins" in arguments:  # then the log shows the origin, which pages do not keep secret
            headers["Origin"] = "https://elsewhere.example.org"
        assert CANARY not in await connected_to(server, TARGET, headers)


async def connected_to(server: Server, target: str, headers: dict[str, str]) -> str:
    """Return what a client is told that connects with these arguments, without its subprotocol."""
    assert server.port is not None
    async with tcp(server.port) as peer:
        with anyio.fail_after(TIMEOUT):
            try:
                head = await peer.open(target, headers)
                if " 101 " in head.splitlines()[0]:
                    await peer.write(peers.command("ping"))
                    peer.finish()
                    said = await peer.read_close()
                    return "" if said is None else said.data.decode(errors="replace")
                peer.finish()
                while True:
                    head += (await peer.read()).decode()
            except Gone:
                return head + peer._buffer.decode()


@pytest.mark.parametrize("target", ["/health", "/", f"/{VALUE}"])
async def test_no_secret_of_a_plain_request_shows(on_sockets: Serving, target: str) -> None:
    """Expect no secret of the query, the cookies and the body."""
    async with on_sockets(app()) as server, httpx2.AsyncClient(trust_env=False) as http:
        url = f"http://127.0.0.1:{server.port}{target}"
        response = await http.get(url, params={"token": TOKEN}, headers=HEADERS)
        assert CANARY not in response.text + str(response.headers)


@pytest.mark.parametrize(
    "request_",
    [
        f"GET {TARGET} HTTP/1.1\r\nCookie {TOKEN}\r\n\r\n",
        f"GET {TARGET} HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\x01\r\n\r\n",
        f"GET {TARGET} HTTP/1.1\r\nX {TOKEN}: 1\r\n\r\n",
        f"GET {TARGET} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {VALUE}\r\n\r\n",
        f"GET {TARGET} HTTP/9.9\r\n\r\n",
        f"GET {TARGET}\r\n\r\n",
        f"POST {TARGET} HTTP/1.1\r\nHost: localhost\r\n\r\ntoken={TOKEN}",
        f"{TOKEN}\r\n\r\n",
        f"GET {TARGET} HTTP/1.1\r\nCookie: {TOKEN * 10000}\r\n\r\n",
        f"GET {TARGET} HTTP/1.1\r\nCookie: {TOKEN}",
    ],
    ids=[
        "a header without a colon",
        "a control character in a header",
        "a space in the name of a header",
        "a wrong length",
        "a wrong version",
        "no version",
        "POST",
        "no HTTP",
        "too long a header",
        "cut off",
    ],
)
async def test_a_request_that_is_not_http_is_not_quoted(request_: str) -> None:
    """Expect no quote of the request, neither to the client nor in the log."""
    async with app().serve("127.0.0.1", 0) as server:
        assert server.port is not None
        async with tcp(server.port) as peer:
            said = b""
            with anyio.fail_after(TIMEOUT), suppress(Gone):
                await peer.write(request_.encode())
                peer.finish()
                while True:
                    said += await peer.read()
            assert CANARY not in said.decode()


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-WebSocket-Key": TOKEN},
        {"Sec-WebSocket-Version": TOKEN},
        {"Upgrade": f"websocket, {TOKEN}"},
        {"Connection": TOKEN},
        {"Sec-WebSocket-Extensions": f"{TOKEN} ;;"},
        {"Sec-WebSocket-Protocol": f"{TOKEN} ;;"},
        {"Origin": TOKEN},
    ],
    ids=lambda headers: next(iter(headers)),
)
async def test_a_wrong_handshake_is_not_quoted_in_the_log(headers: dict[str, str]) -> None:
    """Expect no quote of the handshake in the log; the client, which wrote it, may be told."""
    async with app().serve("127.0.0.1", 0) as server:
        await connected_to(server, TARGET, headers)


async def authenticate(request: Request) -> Identity | None:
    match request.headers["X-How"]:
        case "known":
            return Identity(request.headers["Cookie"])
        case "unknown":
            raise NotAuthorized("no", request.headers["Cookie"])
        case "bug":
            raise RuntimeError("a bug")
    return None


@pytest.mark.parametrize("how", ["known", "unknown", "bug", "nobody"])
async def test_no_secret_by_which_a_user_is_verified_shows(on_sockets: Serving, how: str) -> None:
    """Expect no secret by which a user is verified at its handshake."""
    served = app(providers=[HandshakeSecurityProvider(authenticate)], origins=[None])
    async with on_sockets(served) as server:
        headers = {**HEADERS, "X-How": how}
        assert CANARY not in await connected_to(server, TARGET, headers)
        with suppress(InvalidHandshake):
            async with dial(server, additional_headers=headers) as client:
                said = await answers(client, [frame("protected", token=TOKEN, id=1)])
                assert CANARY not in "".join(errors_among(said))
