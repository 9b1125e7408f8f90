"""Many nodes of one app, connected by Redis; needs the extra ``redis``."""

try:
    import coredis
except ImportError as error:
    raise ImportError('websuckets.redis needs coredis: pip install "websuckets[redis]"') from error

from websuckets.redis.provider import RedisProvider

__all__ = ["RedisProvider"]

del coredis
