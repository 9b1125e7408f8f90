"""Nodes in processes of their own are one app, over real sockets."""

import pytest
from brokers import HEARTBEAT
from harness import dial
from nodes import node_process
from redis_server import RedisServer

pytestmark = pytest.mark.anyio


@pytest.mark.heavy
async def test_two_processes_are_one_app(own_redis: RedisServer, anyio_backend_name: str) -> None:
    """Events, kept sessions and revocations of one process reach the other.

    What one publishes reaches the other's subscribers in order; a user who reconnects to the other
    node goes on there, and a revoked user is refused on both.
    """
    url, backend = own_redis.url, anyio_backend_name
    async with (
        node_process(url, backend, HEARTBEAT) as one,
        node_process(url, backend, HEARTBEAT) as two,
    ):
        async with dial(one.server) as ann, dial(two.server) as bob:
            await bob.call("join", payload="a", id=1)
            for number in range(100):
                await ann.call("publish", payload={"channel": "a", "what": number}, id=number)
            got = [(await bob.receive())["payload"] for _ in range(100)]
            assert got == list(range(100))
            await ann.call("enter", payload="ann", id=1)
            await ann.call("keep", payload={"role": "editor"}, id=1)
        token = "secret of ann"
        async with dial(two.server) as ann, dial(one.server) as bob:
            who = await ann.call("who am i", token=token)
            assert who["payload"] == ["ann", "editor"]
            await bob.call("revoke", payload="ann", id=1)
            assert await ann.closed() == (4401, "revoked")
        for node in (one, two):
            async with dial(node.server) as ann:
                refused = await ann.call("who am i", token=token)
                assert refused["error"] == "not authorized"
