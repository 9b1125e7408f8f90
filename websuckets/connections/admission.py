"""Admission of clients: by page, path and proxy, and by the number of connections."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

from websockets.datastructures import Headers

from websuckets.connections.origins import is_admitted, origin_of
from websuckets.exc import HEADER_NAME, ConfigurationError, HandshakeRefused
from websuckets.introspection.strings import plain_string
from websuckets.limits import Limits
from websuckets.protocol.transport import HttpResponse

__all__ = ["Admission", "checked_path", "client_of", "join_cookies"]

Network: TypeAlias = IPv4Network | IPv6Network

UNIX: Final = "unix"
"""Name that stands among trusted proxies for every peer of a unix socket."""

IPV6_CLIENT: Final = 64
"""Bits of an IPv6 address that tell clients apart: each client chooses the other bits itself
(RFC 6177, RIPE-690)."""

MAX_HOPS: Final = 32
"""Items of ``X-Forwarded-For`` that are read, from the last one on."""

MAX_HOP: Final = 100
"""Characters of one item of ``X-Forwarded-For``: an address, and perhaps a port."""

MAX_COOKIES: Final = 16 * 1024
"""Characters of all cookies. Parsers of cookies may take time that grows with the square of their
length, as the parser of Python does before 3.11.10, 3.12.6 and 3.13."""

UPGRADE_REQUIRED: Final = "This address serves WebSocket; connect with a WebSocket client.\n"


@dataclass(frozen=True, slots=True)
class Admission:
    """Rules of an app for the admission of clients, which live as long as the app."""

    origins: frozenset[str | None] | None
    """Origins of pages that may connect; ``None`` among the origins admits clients that are not
    browsers, ``None`` instead of the origins admits every client."""
    trusted_proxies: tuple[Network | str, ...]
    subprotocols: tuple[str, ...]
    path: str | None
    health: str | None

    @classmethod
    def of(
        cls,
        origins: Iterable[str | None] | None,
        trusted_proxies: Iterable[str],
        subprotocols: Iterable[str],
        path: str | None,
        health: str | None,
    ) -> "Admission":
        """Return the rules that these arguments of an app state.

        Raises `ConfigurationError` for arguments that would admit no client, or others than they
        seem to.
        """
        return cls(
            None if origins is None else frozenset(map(origin_of, _list("origins", origins))),
            tuple(map(_proxy, _list("trusted_proxies", trusted_proxies))),
            _subprotocols(_list("subprotocols", subprotocols)),
            checked_path("path", path),
            checked_path("health", health),
        )

    def address_of(self, peer: Any, headers: Headers) -> Any:
        """Return the client's ``(host, port)``, which trusted proxies may state.

        The client is the last address in ``X-Forwarded-For`` that is not a trusted proxy itself:
        text before that address may be the client's own invention, of any length, and is
        not read. The port of an address from the header is 0.
        """
        if not self.trusted_proxies or not self._trusts(_host_of(peer)):
            return peer
        for name in _from_the_last(headers.get_all("X-Forwarded-For")):
            host = _without_port(name)
            if host is None:
                return peer
            if not self._trusts(host):
                return (host, 0)
        return peer

    def refusal(self, path: str, headers: Headers) -> HandshakeRefused | None:
        """Return the refusal of a client that may not connect; ``None`` for any other."""
        if self._is_elsewhere(path):
            return HandshakeRefused(HTTPStatus.NOT_FOUND, "Not Found\n")
        if not is_admitted(headers, self.origins):
            return HandshakeRefused(HTTPStatus.FORBIDDEN, "The origin is not allowed.\n")
        if sum(map(len, headers.get_all("Cookie"))) > MAX_COOKIES:
            return HandshakeRefused(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "There are too many cookies.\n"
            )
        return None

    def answer(self, path: str, *, closing: bool, is_ready: bool = True) -> HttpResponse:
        """Return the response to a request that is not an opening handshake.

        ``closing`` and ``is_ready`` are the state of the app, and count at the path of ``health``.
        """
        if path == self.health:
            if closing:
                return HttpResponse(HTTPStatus.SERVICE_UNAVAILABLE, "stopping\n")
            if not is_ready:
                return HttpResponse(HTTPStatus.SERVICE_UNAVAILABLE, "not ready\n")
            return HttpResponse(HTTPStatus.OK, "ok\n")
        if self._is_elsewhere(path):
            return HttpResponse(HTTPStatus.NOT_FOUND, "Not Found\n")
        return HttpResponse(HTTPStatus.UPGRADE_REQUIRED, UPGRADE_REQUIRED, {"Upgrade": "websocket"})

    def subprotocol(self, offered: Iterable[str]) -> str | None:
        """Return the first subprotocol of the app that the client offers."""
        among = set(offered)
        return next((ours for ours in self.subprotocols if ours in among), None)

    def _trusts(self, host: str) -> bool:
        if host == UNIX:
            return UNIX in self.trusted_proxies
        try:
            ip = ip_address(host)
        except ValueError:  # a name, such as that of a test client
            return False
        ip = getattr(ip, "ipv4_mapped", None) or ip
        networks = (network for network in self.trusted_proxies if not isinstance(network, str))
        return any(ip in network for network in networks)

    def _is_elsewhere(self, path: str) -> bool:
        return self.path is not None and path != self.path


def _host_of(peer: Any) -> str:
    return str(peer[0]).partition("%")[0] if isinstance(peer, tuple) else UNIX


def _without_port(name: str) -> str | None:
    """Return the address in an item of ``X-Forwarded-For``, to which some proxies add the port."""
    if len(name) > MAX_HOP:
        return None
    for host in (name, name.rpartition(":")[0].strip("[]"), name.strip("[]")):
        try:
            return str(ip_address(host))
        except ValueError:
            pass
    return None


def _from_the_last(lines: Sequence[str]) -> Iterator[str]:
    """Yield the items of a list header, the last one first; several lines of the header are one
    list (RFC 9110, section 5.3). At most `MAX_HOPS` items are read."""
    left = MAX_HOPS
    for line in reversed(lines):
        end = len(line)
        while end >= 0 and left > 0:
            comma = line.rfind(",", 0, end)
            if item := line[comma + 1 : end].strip():
                yield item
            end = comma
            left -= 1


def _list(name: str, value: Any) -> Iterable[Any]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise ConfigurationError(f"{name}={value!r}: write a list, [{value!r}]")
    return value


def _proxy(proxy: Any) -> Network | str:
    if proxy == UNIX:
        return UNIX
    try:
        if isinstance(proxy, int | bytes):
            raise ValueError(f"it is a str, not {type(proxy).__name__}")
        network = ip_network(plain_string(proxy) if isinstance(proxy, str) else proxy)
        mapped = getattr(network.network_address, "ipv4_mapped", None)
        if mapped is not None:
            network = ip_network((mapped, network.prefixlen - 96))
        if network.prefixlen == 0:
            raise ValueError("where everybody is a proxy, nobody is a client")
    except ValueError as error:
        raise ConfigurationError(
            f'trusted_proxies=[{proxy!r}]: {error}; write addresses, networks, or "{UNIX}"'
        ) from None
    return network


def _subprotocols(names: Iterable[Any]) -> tuple[str, ...]:
    """Return the names after checking that a client can offer each of the names."""
    names = tuple(names)
    for name in names:
        if not isinstance(name, str) or not HEADER_NAME.fullmatch(name):
            raise ConfigurationError(
                f"subprotocols=[{name!r}]: a subprotocol is a token of RFC 9110: letters, digits "
                "and !#$%&'*+-.^_`|~, without blanks and commas"
            )
        if names.count(name) > 1:
            raise ConfigurationError(f"subprotocols: {name!r} stands there twice")
    return tuple(map(plain_string, names))


def checked_path(name: str, path: Any) -> str | None:
    """Return the path after checking that a client can ask for the path."""
    if path is None:
        return None
    if not isinstance(path, str) or not path.startswith("/"):
        example = f"; write {'/' + path!r}" if isinstance(path, str) else ""
        raise ConfigurationError(f'{name}={path!r}: a path begins with a "/"{example}')
    alone = path.partition("#")[0].partition("?")[0]
    if alone != path:
        raise ConfigurationError(
            f"{name}={path!r}: it is compared with a path that has no query; write {alone!r}"
        )
    if unquote(path) != path:
        raise ConfigurationError(
            f"{name}={path!r}: it is compared with a decoded path; write {unquote(path)!r}"
        )
    if not {".", ".."}.isdisjoint(path.split("/")):
        raise ConfigurationError(
            f'{name}={path!r}: clients resolve "." and ".." before they connect; write the path '
            "without them"
        )
    return plain_string(path)


def join_cookies(headers: Headers) -> None:
    """Join the cookie headers into which HTTP/2 may split one (RFC 9113, section 8.2.3)."""
    cookies = headers.get_all("Cookie")
    if len(cookies) > 1:
        del headers["Cookie"]
        headers["Cookie"] = "; ".join(cookies)


class ConnectionCounts:
    """Numbers of connections of a running app: in all, and for each client address."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._all = 0
        self._by_client: Counter[object] = Counter()

    def refusal(self, address: Any) -> HandshakeRefused | None:
        """Return the refusal of one more connection from an address; ``None`` if there is room."""
        if _is_full(self._all, self._limits.max_connections):
            return HandshakeRefused(HTTPStatus.SERVICE_UNAVAILABLE)
        if _is_full(self._by_client[client_of(address)], self._limits.max_connections_per_ip):
            return HandshakeRefused(HTTPStatus.TOO_MANY_REQUESTS)
        return None

    def add(self, address: Any) -> None:
        """Count a connection from an address."""
        self._all += 1
        self._by_client[client_of(address)] += 1

    def remove(self, address: Any) -> None:
        """Count a connection from an address no longer."""
        self._all -= 1
        client = client_of(address)
        self._by_client[client] -= 1
        if not self._by_client[client]:
            del self._by_client[client]


def _is_full(count: int, most: int | None) -> bool:
    return most is not None and count >= most


def client_of(address: Any) -> object:
    """Return the key of a client under which its connections are counted."""
    if not isinstance(address, tuple):
        return address
    try:
        ip = ip_address(address[0].partition("%")[0])
    except ValueError:
        return address[0]
    if isinstance(ip, IPv6Address):
        return ip.ipv4_mapped or int(ip) >> (128 - IPV6_CLIENT)
    return ip
