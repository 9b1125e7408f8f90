"""Many nodes of one app, connected by Redis; needs the extra ``redis``."""

from websuckets.redis.provider import RedisProvider

__all__ = ["RedisProvider"]
