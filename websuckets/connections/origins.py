"""Origins of pages, in the form in which browsers send them (RFC 6454, section 6.2)."""

import re
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from websockets.datastructures import Headers

from websuckets.exc import ConfigurationError

__all__ = ["is_admitted", "origin_of"]

NULL: Final = "null"
"""Origin of pages without one: from files, in sandboxed frames, in some mobile apps."""

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
"""Default ports of schemes whose hosts are names or addresses; browsers leave them out."""

PAGES_OF: Final = {"ws": "http", "wss": "https"}
"""Schemes of pages, by the schemes with which the pages connect."""

PARTS: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?:[^/?#\\]*@)?"
    r"(?P<host>\[[0-9a-f:.]+\]|[^/?#\\:@\[\]]*)(?::(?P<port>[0-9]*))?(?:[/?#\\].*)?"
)
"""Pattern of an origin as people write it, in lower case and without blanks."""

NAME: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?")

NUMERIC: Final = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)\.?")
"""Hosts that browsers take for IPv4 addresses (WHATWG URL, section 3.5)."""


def is_admitted(headers: Headers, origins: frozenset[str | None] | None) -> bool:
    """Tell whether a page may connect; ``origins`` are those of `origin_of`, ``None`` for any."""
    if origins is None:
        return True
    sent = headers.get_all("Origin")
    if len(sent) > 1:
        return False
    return (sent[0].lower() if sent else None) in origins


def origin_of(origin: Any) -> str | None:
    """Return an item of ``origins`` in lower case, in which a client's origin is compared.

    Raises `ConfigurationError` for an item that no browser sends, with the form that a
    browser sends instead.
    """
    if origin is None:
        return None
    if isinstance(origin, str):
        text = origin.lower()
        sent = NULL if text.strip() == NULL else _as_sent("".join(text.split()))
        if text == sent:
            return text
    else:
        sent = None
    raise ConfigurationError(
        f"origins=[{origin!r}]: an origin is scheme, host and port alone, as browsers send it; "
        + _remedy(origin, sent)
    )


def _remedy(origin: Any, sent: str | None) -> str:
    if sent is not None:
        return f'write "{sent}"'
    if origin == "*":
        return "to let every page connect, leave out origins="
    if isinstance(origin, str) and "*" in origin:
        return "patterns are not supported: list every origin"
    return 'write "https://example.org"; None stands for clients that are not browsers'


def _as_sent(text: str) -> str | None:
    """Return the origin that a browser makes of the text; ``None`` if it cannot make one."""
    parts = PARTS.fullmatch(text)
    if parts is None:
        return None
    scheme = PAGES_OF.get(parts["scheme"], parts["scheme"])
    host: str | None = parts["host"]
    port = int(parts["port"] or 0)
    if scheme in DEFAULT_PORTS:
        host = _host_as_sent(parts["host"])
    if host is None or "*" in host or port > 65535:
        return None
    if port in (0, DEFAULT_PORTS.get(scheme)):
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{port}"


def _host_as_sent(host: str) -> str | None:
    try:
        if host.startswith("["):
            return f"[{IPv6Address(host[1:-1]).compressed}]"
        if NUMERIC.fullmatch(host):
            return str(IPv4Address(host))
        if not host.isascii():
            host = host.encode("idna").decode()
    except ValueError:
        return None
    return host if NAME.fullmatch(host) else None
