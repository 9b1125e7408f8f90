"""Provider that connects an app to Redis."""

import logging
import math
from typing import Final

from dishka import Provider, Scope

from websuckets.broker import Broker
from websuckets.cache import Cache
from websuckets.clock import WallClock
from websuckets.di.graph import replacing
from websuckets.exc import ConfigurationError
from websuckets.history import EventLog
from websuckets.idempotency import LIFETIME as ONCE_LIFETIME
from websuckets.idempotency import IdempotencyStore
from websuckets.introspection.strings import plain_string
from websuckets.redis.broker import RedisBroker
from websuckets.redis.cache import RedisCache
from websuckets.redis.connection import RedisConnection
from websuckets.redis.history import RedisLog
from websuckets.redis.idempotency import RedisClaims, RedisIdempotencyStore
from websuckets.redis.store import RedisSessionStore
from websuckets.redis.url import problem_with
from websuckets.runtime.tasks import AppTasks
from websuckets.security import resumed_user
from websuckets.store import LIFETIME, RECORDS_PER_USER, SessionStore

__all__ = ["RedisProvider"]

HEARTBEAT: Final = 2.0


class RedisProvider(Provider):
    """A provider of the `Broker` that makes one app of all processes with the same Redis.

    ``url`` is ``redis://user:password@host:port/0``, with ``rediss`` for TLS, or
    ``unix:///path/of.sock``. Apps with another database or ``prefix`` know nothing of each other.
    The `Cache` of the app is provided, too.

    Every ``heartbeat`` (in seconds) Redis has to answer within as long, or the connection is closed
    and made anew; the users of a node that has died are gone within three heartbeats.

    With ``resume``, users that were saved (`Session.save`) go on with their tokens when they
    reconnect to any node: a `SessionStore` and `CurrentUser` are provided, too. A record is kept
    for ``lifetime`` seconds after it was last saved or resumed. Of one user at most
    ``records_per_user`` records are kept; another one replaces the record that was not used for
    longest.

    With ``once``, commands that take effect once do so whichever node gets them: an
    `IdempotencyStore` is provided, too. A reply is kept for ``once_lifetime`` seconds. While Redis
    is away, these commands get the error ``unavailable``. A node that dies between the commit of an
    effect and the storing of the reply lets the command take effect again.

    With ``history``, the history of channels is one for all nodes: an `EventLog` is provided, too.
    What is published to such a channel is as safe as Redis keeps it: Redis needs an append-only
    file (``appendonly yes``), and must not evict keys where its memory is full (``maxmemory-policy
    noeviction``). A channel whose data Redis has lost begins with a new epoch, and its clients load
    their state anew. While Redis is away, or its memory full, publishing to such a channel raises
    `Unavailable`, and subscribing may, too.

    While Redis is away, the cache is empty, and values that were set or deleted are removed when
    Redis is back; with ``strict_cache`` each method of the cache raises `Unavailable` instead.

    The app also starts while Redis is away, and serves only its own clients until Redis is back.
    The app does not start, but raises `ConfigurationError`, where Redis answers that the URL is
    wrong.

    Raises `ConfigurationError` for a URL that can never work, and for numbers that mean nothing.
    """

    def __init__(
        self,
        url: str,
        *,
        resume: bool = False,
        lifetime: float = LIFETIME,
        records_per_user: int = RECORDS_PER_USER,
        prefix: str = "websuckets",
        heartbeat: float = HEARTBEAT,
        strict_cache: bool = False,
        once: bool = False,
        once_lifetime: float = ONCE_LIFETIME,
        history: bool = False,
    ) -> None:
        super().__init__(scope=Scope.APP)
        problem = problem_with(url)
        if problem is not None:
            raise ConfigurationError(f"RedisProvider(url): {problem}")
        if not isinstance(prefix, str):
            raise ConfigurationError(f"RedisProvider(prefix={prefix!r}): it is a str")
        for name, least, number in (
            ("heartbeat", 0.001, heartbeat),
            ("lifetime", 0.001, lifetime),
            ("records_per_user", 1, records_per_user),
            ("once_lifetime", 0.001, once_lifetime),
        ):
            if not (isinstance(number, int | float) and least <= number < math.inf):
                raise ConfigurationError(
                    f"RedisProvider({name}={number!r}): it is a number, at least {least}"
                )
        _keep_quiet()
        url, prefix = plain_string(url), plain_string(prefix)

        @replacing(Cache)
        def broker() -> RedisBroker:
            return RedisBroker(RedisConnection(url, heartbeat), prefix)

        self.provide(broker)
        self.alias(RedisBroker, provides=Broker)

        def cache(broker: RedisBroker) -> Cache:
            return RedisCache(broker, strict=strict_cache)

        self.provide(cache)
        if resume:

            def store(broker: RedisBroker, clock: WallClock) -> SessionStore:
                return RedisSessionStore(broker, lifetime, records_per_user, clock)

            self.provide(store)
            self.provide(resumed_user, scope=Scope.REQUEST)
        if once:

            @replacing(IdempotencyStore)
            def claims(broker: RedisBroker) -> RedisClaims:
                return RedisClaims(broker, once_lifetime)

            def replies(claims: RedisClaims, tasks: AppTasks) -> IdempotencyStore:
                return RedisIdempotencyStore(claims, tasks)

            self.provide(claims)
            self.provide(replies, scope=Scope.REQUEST)
        if history:

            @replacing(EventLog)
            def log(broker: RedisBroker) -> EventLog:
                return RedisLog(broker)

            self.provide(log)


def _keep_quiet() -> None:
    """Silence the logger of the client, unless it has a level.

    The client logs each failed attempt to connect with a traceback; websuckets logs once that Redis
    is away.
    """
    theirs = logging.getLogger("coredis")
    if theirs.level == logging.NOTSET:
        theirs.setLevel(logging.CRITICAL)
