"""URL of a Redis, and its allowed parts."""

from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

from coredis import ConnectionPool

__all__ = ["database_of", "problem_with"]

SCHEMES: Final = ("redis://", "rediss://", "unix://")

OPTIONS: Final = {"db", "client_name", "noevict", "notouch"}

OF_TLS: Final = {
    "ssl_ca_certs",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_keyfile",
}
"""Options of ``rediss://`` alone."""

DAMAGING: Final = {
    "decode_responses": "messages of nodes are bytes",
    "noreply": "nodes need the answers of Redis",
}
"""Options of the client with which no node can work, and the reasons."""


def database_of(url: str) -> int:
    """Return the number of the database in a URL that has no problem."""
    parts = urlsplit(url)
    return int(_database(parts) or 0)


def problem_with(url: object) -> str | None:
    """Return why this URL can never work, with the remedy; quote no part that may be secret."""
    if not isinstance(url, str) or not url.startswith(SCHEMES):
        return f'write "redis://localhost:6379"; it begins with one of {", ".join(SCHEMES)}'
    parts = urlsplit(url)
    if not _leads_somewhere(parts):
        return (
            "it has no host, a port that is not a number up to 65535, or a password with "
            "characters that have to be quoted (urllib.parse.quote)"
        )
    database = _database(parts)
    if database and not (database.isascii() and database.isdecimal()):
        return "what follows the host is the number of a database: redis://localhost:6379/0"
    return _problem_with_options(url, parts)


def _problem_with_options(url: str, parts: SplitResult) -> str | None:
    known = OPTIONS | OF_TLS if parts.scheme == "rediss" else OPTIONS
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if name in DAMAGING:
            return f"it cannot have the option {name}: {DAMAGING[name]}"
        if name in OF_TLS - known:
            return f"the option {name} is for TLS: write rediss://"
        if name not in known:
            return f"it has the unknown option {name!r:.40}; there are {', '.join(sorted(known))}"
    try:
        ConnectionPool.from_url(url, decode_components=True)
    except Exception as error:  # of TLS options; the error may quote the URL
        return f"its options for TLS cannot be used: {type(error).__name__}"
    return None


def _database(parts: SplitResult) -> str:
    """Return the database as written: in an option, or else as the path of a TCP URL."""
    option = dict(parse_qsl(parts.query)).get("db")
    if option is not None:
        return option
    return "" if parts.scheme == "unix" else parts.path.removeprefix("/")


def _leads_somewhere(parts: SplitResult) -> bool:
    if "@" in parts.path + parts.query + parts.fragment:  # from a password that is not quoted
        return False
    try:
        where = parts.path if parts.scheme == "unix" else parts.hostname
        return bool(where) and parts.port != 0
    except ValueError:  # a wrong port; the error may hold a part of the password
        return False
