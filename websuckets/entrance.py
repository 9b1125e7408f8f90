"""Who may connect: from which page, to which path, through which proxy, and how many."""

from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

from websockets.datastructures import Headers

from websuckets.exc import ConfigurationError, HandshakeRefused
from websuckets.socket import HttpAnswer
from websuckets.strings import plain_string

__all__ = ["Entrance", "client_of", "path_of"]

Network: TypeAlias = IPv4Network | IPv6Network

UNIX: Final = "unix"
"""Stands among trusted proxies for whoever connects to a unix socket."""

IPV6_CLIENT: Final = 64
"""Bits of an IPv6 address that tell clients apart: the rest is the client's own choice
(RFC 6177, RIPE-690)."""

UPGRADE_REQUIRED: Final = "This address serves WebSocket; connect with a WebSocket client.\n"


@dataclass(frozen=True, slots=True)
class Entrance:
    """What an app says of that; it lives as long as the app."""

    origins: frozenset[str | None] | None
    """Pages that may connect; ``None`` among them lets clients in that are no browsers, ``None``
    instead of them everybody."""
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
    ) -> "Entrance":
        """Raises `ConfigurationError` for what would let nobody in, or not whom it seems to."""
        for name, value in (
            ("origins", origins),
            ("trusted_proxies", trusted_proxies),
            ("subprotocols", subprotocols),
        ):
            if isinstance(value, str):
                raise ConfigurationError(f"{name}={value!r}: write a list, [{value!r}]")
        for name, value in (("path", path), ("health", health)):
            if value is not None and not (isinstance(value, str) and value.startswith("/")):
                raise ConfigurationError(f'{name}={value!r}: a path begins with a "/"')
        return cls(
            None if origins is None else frozenset(map(_origin, origins)),
            tuple(map(_proxy, trusted_proxies)),
            tuple(map(_subprotocol, subprotocols)),
            None if path is None else plain_string(path),
            None if health is None else plain_string(health),
        )

    def address_of(self, peer: Any, headers: Headers) -> Any:
        """The client's ``(host, port)``, which proxies that are trusted may say.

        It is the last one that ``X-Forwarded-For`` names and that is no trusted proxy itself: what
        stands before it may be the client's own invention. Its port is 0, for nobody says it.
        """
        if not self.trusted_proxies or not self._trusts(_host_of(peer)):
            return peer
        named = ",".join(headers.get_all("X-Forwarded-For")).split(",")
        for host in reversed([_without_port(name.strip()) for name in named if name.strip()]):
            if host is None:
                return peer
            if not self._trusts(host):
                return (host, 0)
        return peer

    def refusal(self, path: str, headers: Headers) -> HandshakeRefused | None:
        """Why this client may not connect, if so."""
        if self._is_elsewhere(path):
            return HandshakeRefused(HTTPStatus.NOT_FOUND, "Not Found\n")
        if not self._is_from_our_pages(headers):
            return HandshakeRefused(HTTPStatus.FORBIDDEN, "The origin is not allowed.\n")
        return None

    def answer(self, path: str, *, closing: bool) -> HttpAnswer:
        """To a request that is no opening handshake."""
        if path == self.health:
            if closing:
                return HttpAnswer(HTTPStatus.SERVICE_UNAVAILABLE, "stopping\n")
            return HttpAnswer(HTTPStatus.OK, "ok\n")
        if self._is_elsewhere(path):
            return HttpAnswer(HTTPStatus.NOT_FOUND, "Not Found\n")
        return HttpAnswer(HTTPStatus.UPGRADE_REQUIRED, UPGRADE_REQUIRED, {"Upgrade": "websocket"})

    def subprotocol(self, offered: Iterable[str]) -> str | None:
        """The first of the app's that the client offers."""
        among = set(offered)
        return next((ours for ours in self.subprotocols if ours in among), None)

    def _trusts(self, host: str) -> bool:
        if host == UNIX:
            return UNIX in self.trusted_proxies
        try:
            ip = ip_address(host)
        except ValueError:  # a name, as that of a test client
            return False
        ip = getattr(ip, "ipv4_mapped", None) or ip
        networks = (network for network in self.trusted_proxies if not isinstance(network, str))
        return any(ip in network for network in networks)

    def _is_elsewhere(self, path: str) -> bool:
        return self.path is not None and path != self.path

    def _is_from_our_pages(self, headers: Headers) -> bool:
        if self.origins is None:
            return True
        origins = headers.get_all("Origin")
        if len(origins) > 1:
            return False
        return (origins[0].lower() if origins else None) in self.origins


def _origin(origin: Any) -> str | None:
    if origin is None:
        return None
    if not isinstance(origin, str) or origin.count("/") != 2 or "://" not in origin:
        raise ConfigurationError(
            f'origins=[{origin!r}]: an origin is scheme, host and port alone, "https://example.org"'
            "; None stands for clients that are no browsers"
        )
    return origin.lower()


def _subprotocol(name: Any) -> str:
    if not isinstance(name, str):
        raise ConfigurationError(f"subprotocols=[{name!r}]: a subprotocol is a string")
    return plain_string(name)


def _host_of(peer: Any) -> str:
    return str(peer[0]).partition("%")[0] if isinstance(peer, tuple) else UNIX


def _without_port(name: str) -> str | None:
    """The address in an item of ``X-Forwarded-For``, to which some proxies add the port."""
    for host in (name, name.rpartition(":")[0].strip("[]"), name.strip("[]")):
        try:
            return str(ip_address(host))
        except ValueError:
            pass
    return None


def _proxy(proxy: Any) -> Network | str:
    if proxy == UNIX:
        return UNIX
    try:
        return ip_network(plain_string(proxy) if isinstance(proxy, str) else proxy)
    except ValueError as error:
        raise ConfigurationError(
            f'trusted_proxies=[{proxy!r}]: {error}; write addresses, networks, or "{UNIX}"'
        ) from None


def path_of(target: str) -> str:
    """The path that a request's target names, decoded and without its query."""
    return unquote(target.partition("?")[0])


def client_of(address: Any) -> object:
    """What tells clients apart where their connections are counted."""
    if not isinstance(address, tuple):
        return address
    try:
        ip = ip_address(address[0].partition("%")[0])
    except ValueError:
        return address[0]
    if isinstance(ip, IPv6Address):
        return ip.ipv4_mapped or int(ip) >> (128 - IPV6_CLIENT)
    return ip
