"""The benchmarks measure servers that give the right answers; how fast is not tested."""

from typing import Final

import pytest

from benchmarks.job import PREVIEW, Job
from benchmarks.load import Unexpected
from benchmarks.measure import Bench
from benchmarks.subjects import SUBJECTS

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
