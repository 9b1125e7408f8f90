"""The benchmarks measure servers that give the right answers; how fast is not tested."""

from typing import Final

import pytest

from benchmarks import audience
from benchmarks.channels import FAN_OUT, FanOutBench, NodesBench
from benchmarks.job import PREVIEW, Job
from benchmarks.load import Unexpected
from benchmarks.measure import Bench
from benchmarks.redis_server import find_redis, running_redis
from benchmarks.subjects import SUBJECTS, Options

pytestmark: Final = pytest.mark.skipif(
    "not hasattr(__import__('select'), 'epoll')", reason="the load generator needs epoll"
)


@pytest.mark.parametrize("name", ["websockets/asyncio", "websuckets/asyncio"])
def test_a_subject_does_the_job(name: str) -> None:
    """Clients count, and compare, every answer."""
    with Bench(SUBJECTS[name], Job("protected", connections=2, depth=2)) as bench:
        bench.turn(warm_up=0, seconds=0.05)
        bench.turn(warm_up=0, seconds=0.1)
    figures = bench.figures()
    assert figures.per_second > 0
    assert figures.p50_us <= figures.p99_us <= figures.p999_us


def test_a_wrong_answer_is_noticed() -> None:
    """A server that answers something else is not measured."""
    job = Job("unknown", event=PREVIEW + "s")
    with pytest.raises(Unexpected), Bench(SUBJECTS["websockets/asyncio"], job):
        pass


@pytest.mark.parametrize("name", FAN_OUT)
def test_every_subscriber_gets_everything(name: str) -> None:
    """Subscribers compare every message with the one that is to come."""
    if not SUBJECTS[name].is_installed:
        pytest.skip(f"{name} is not installed")
    with FanOutBench(SUBJECTS[name], Job("fan-out", connections=20)) as bench:
        bench.turn(warm_up=0, seconds=0.05)
        bench.turn(warm_up=0, seconds=0.1)
    assert bench.figures().per_second > 0


def test_a_wrong_message_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody expects is not counted."""
    with FanOutBench(SUBJECTS["websockets/asyncio"], Job("fan-out", connections=2)) as bench:
        bench.turn(warm_up=0, seconds=0.05)
        monkeypatch.setattr(audience, "news", lambda number: {"number": number + 1})
        with pytest.raises(Unexpected):
            bench.turn(warm_up=0, seconds=0.05)


@pytest.mark.skipif(find_redis() is None, reason="needs redis-server")
def test_messages_come_from_one_node_to_the_other() -> None:
    """The publisher is on one, all subscribers are on the other."""
    program = find_redis()
    assert program is not None
    job = Job("between-nodes", connections=3)
    with (
        running_redis(program) as url,
        NodesBench(SUBJECTS["websuckets/asyncio"], job, Options(redis=url)) as bench,
    ):
        bench.turn(warm_up=0, seconds=0.05)
        bench.turn(warm_up=0, seconds=0.1)
    figures = bench.figures()
    assert 0 < figures.p50_us <= figures.p99_us
