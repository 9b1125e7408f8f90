"""How an app comes to Redis."""

import logging
from typing import Final
from urllib.parse import urlsplit

from dishka import Provider, Scope

from websuckets.broker import Broker
from websuckets.exc import ConfigurationError
from websuckets.redis.broker import RedisBroker
from websuckets.redis.line import Line
from websuckets.redis.store import RedisSessionStore
from websuckets.security import resumed_user
from websuckets.store import LIFETIME, SessionStore
from websuckets.strings import plain_string

__all__ = ["RedisProvider"]

HEARTBEAT: Final = 2.0

SCHEMES: Final = ("redis://", "rediss://", "unix://")


class RedisProvider(Provider):
    """Makes one app of all processes that use the same Redis: provides its `Broker`.

    ``url`` is ``redis://user:password@host:port/0``, with ``rediss`` for TLS, or
    ``unix:///path/of.sock``. Apps with different ``prefix`` know nothing of each other.

    Every ``heartbeat`` (in seconds) Redis has to answer within as long, or its connection is given
    up and made anew; and within three of them, the users of a node that has died are gone.

    With ``resume``, users that were saved (`Session.save`) go on with their tokens when they
    reconnect, to whichever node: it provides a `SessionStore` and `CurrentUser`. They are kept for
    ``lifetime`` seconds after they were last saved or resumed.

    The app starts also while Redis is away, and serves its own clients alone until it is back.

    Raises `ConfigurationError` for what is no such URL, and for a heartbeat under a millisecond.
    """

    def __init__(
        self,
        url: str,
        *,
        resume: bool = False,
        lifetime: float = LIFETIME,
        prefix: str = "websuckets",
        heartbeat: float = HEARTBEAT,
    ) -> None:
        super().__init__(scope=Scope.APP)
        if not isinstance(url, str) or not url.startswith(SCHEMES):
            raise ConfigurationError(
                'RedisProvider(url): write "redis://localhost:6379"; '
                f"it begins with one of {', '.join(SCHEMES)}"
            )
        if not _leads_somewhere(url):
            raise ConfigurationError(
                "RedisProvider(url): it has no host, a port that is no number up to 65535, or a "
                "password with characters that have to be quoted (urllib.parse.quote)"
            )
        if not heartbeat >= 0.001:
            raise ConfigurationError(f"RedisProvider(heartbeat={heartbeat!r}): it is in seconds")
        _keep_quiet()
        url, prefix = plain_string(url), plain_string(prefix)
        self.provide(lambda: RedisBroker(Line(url, heartbeat), prefix), provides=RedisBroker)
        self.alias(RedisBroker, provides=Broker)
        if resume:

            def store(broker: RedisBroker) -> SessionStore:
                return RedisSessionStore(broker.line, prefix, broker.foreign, lifetime)

            self.provide(store)
            self.provide(resumed_user, scope=Scope.REQUEST)


def _leads_somewhere(url: str) -> bool:
    parts = urlsplit(url)
    if "@" in parts.path + parts.query + parts.fragment:  # of a password that is not quoted
        return False
    try:
        return bool(parts.hostname or parts.path) and parts.port != 0
    except ValueError:  # of a port; its text may hold a part of the password
        return False


def _keep_quiet() -> None:
    """Each failed attempt to connect is logged by the client with its traceback; that Redis is
    away is logged once, by us."""
    theirs = logging.getLogger("coredis")
    if theirs.level == logging.NOTSET:
        theirs.setLevel(logging.CRITICAL)
