"""Many nodes of one app, connected by Redis; needs the extra ``redis``."""

from importlib.util import find_spec

if find_spec("coredis") is None:
    raise ImportError(
        'websuckets.redis needs coredis: install websuckets with its extra "redis", from a '
        'checkout by: pip install ".[redis]"'
    )

from websuckets.redis.provider import RedisProvider

__all__ = ["RedisProvider"]
