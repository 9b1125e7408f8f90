"""Tests that the benchmarks measure servers that give the right answers, not how fast they are."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from repository import ROOT

from benchmarks import __main__ as program
from benchmarks import against, audience, measure, workers
from benchmarks.against import NoComparison, interval_of_median
from benchmarks.channels import FAN_OUT, FanOutBench, NodesBench
from benchmarks.job import PREVIEW, Job
from benchmarks.load import Unexpected
from benchmarks.measure import Bench, Figures, Results, compare
from benchmarks.redis_server import find_redis, running_redis
from benchmarks.report import against_table, idle_table
from benchmarks.subjects import SUBJECTS, Options

pytestmark: Final = [
    pytest.mark.heavy,
    pytest.mark.skipif(
        "not hasattr(__import__('select'), 'epoll')", reason="the load generator needs epoll"
    ),
]


@pytest.mark.parametrize("name", ["websockets/asyncio", "websuckets/asyncio"])
def test_a_subject_does_the_job(name: str) -> None:
    """Expect clients to count and compare every answer."""
    with Bench(SUBJECTS[name], Job("protected", connections=2, depth=2)) as bench:
        bench.turn(warm_up=0, seconds=0.05)
        bench.turn(warm_up=0, seconds=0.1)
    figures = bench.figures()
    assert figures.per_second > 0
    assert figures.p50_us <= figures.p99_us <= figures.p999_us


def test_a_wrong_answer_is_noticed() -> None:
    """Expect a server that answers something else not to be measured."""
    job = Job("unknown", event=PREVIEW + "s")
    with pytest.raises(Unexpected), Bench(SUBJECTS["websockets/asyncio"], job):
        pass


def test_workers_answer_and_share_their_clients() -> None:
    """Expect each answer to be checked, and each connection to be counted once."""
    rates = workers.throughput(["asyncio"], rounds=1, seconds=0.1, progress=print)
    assert rates["asyncio"].gain > 0
    assert sum(workers.shares("asyncio", 2, connections=40)) == 1


@pytest.mark.parametrize("name", FAN_OUT)
def test_every_subscriber_gets_everything(name: str) -> None:
    """Expect subscribers to compare every message with the one that should come."""
    if not SUBJECTS[name].is_installed:
        pytest.skip(f"{name} is not installed")
    with FanOutBench(SUBJECTS[name], Job("fan-out", connections=20)) as bench:
        bench.turn(warm_up=0, seconds=0.05)
        bench.turn(warm_up=0, seconds=0.1)
    assert bench.figures().per_second > 0


def test_a_wrong_message_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect an unexpected message not to be counted."""
    with FanOutBench(SUBJECTS["websockets/asyncio"], Job("fan-out", connections=2)) as bench:
        bench.turn(warm_up=0, seconds=0.05)
        monkeypatch.setattr(audience, "news", lambda number: {"number": number + 1})
        with pytest.raises(Unexpected):
            bench.turn(warm_up=0, seconds=0.05)


@pytest.mark.skipif(find_redis() is None, reason="needs redis-server")
def test_messages_come_from_one_node_to_the_other() -> None:
    """Expect messages from a publisher on one node at all subscribers, which are on the other."""
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


def test_idle_connections_are_measured_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expect pings to be answered meanwhile; the figure is the processor time for a connection."""
    monkeypatch.setattr(measure, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(measure, "IDLE_WARM_UP", 0.01)
    name = "websuckets/asyncio"
    job = Job("idle", connections=2, is_idle=True)
    results = compare([(job, [(name, SUBJECTS[name], Options())])], 1, 0.05, lambda line: None)
    assert results.failures == {}
    (figures,) = results.rounds
    assert figures["idle", name].cpu_us >= 0
    assert figures["idle", name].p50_us is None
    assert results.spread("idle", name, "p50_us") is None
    assert [row[0] for row in idle_table(results, "idle", [name], name)] == ["subject", name]


@pytest.mark.parametrize("bounds", [(1, 1.0), (5, 0.9375), (6, 0.96875)])
def test_few_values_are_enclosed_by_the_least_and_the_greatest(bounds: tuple[int, float]) -> None:
    """Expect less than 95 % for fewer than six values, and no statement for one."""
    n, confidence = bounds
    values = [float(value) for value in range(n)]
    found = interval_of_median(values)
    assert (found.low, found.high) == (values[0], values[-1])
    assert found.confidence == (0 if n == 1 else confidence)


@pytest.mark.parametrize(
    ("n", "k", "confidence"), [(8, 1, 0.9922), (15, 4, 0.9648), (20, 6, 0.9586), (50, 18, 0.9672)]
)
def test_the_interval_is_that_of_published_tables(n: int, k: int, confidence: float) -> None:
    """Expect k and the confidence of the tables of the sign test's interval of a median."""
    values = [float(value) for value in range(1, n + 1)]
    found = interval_of_median(list(reversed(values)))
    assert (found.low, found.high) == (k, n + 1 - k)
    assert found.confidence == pytest.approx(confidence, abs=0.0001)
    assert found.median == (n + 1) / 2


def results_with(*ratios: float) -> Results:
    """Return rounds in which a new subject takes these multiples of the old one's time."""
    return Results(
        [{("job", "old a"): Figures(2.0), ("job", "new a"): Figures(2 * x)} for x in ratios]
    )


@pytest.mark.parametrize(
    ("ratios", "is_held"), [([1.0] * 15 + [1.1], True), ([1.04] * 15, False), ([], False)]
)
def test_a_ratio_is_held_where_its_interval_begins_at_the_bar_or_below(
    ratios: Sequence[float], is_held: bool
) -> None:
    """Expect a ratio that was not measured not to be held."""
    rows, all_held = against_table(results_with(*ratios), [("job", "a")], bar=1.03)
    assert all_held is is_held
    assert rows[1][-1] == ("yes" if is_held else "no")


def test_an_idle_server_that_computes_nothing_has_a_ratio() -> None:
    """Expect a ratio of one for nothing to nothing, and of infinity for something to nothing."""
    figures = [
        {("job", "old a"): Figures(0.0), ("job", "new a"): Figures(0.0)},
        {("job", "old a"): Figures(0.0), ("job", "new a"): Figures(1.0)},
    ]
    assert Results(figures).ratios(("job", "new a"), ("job", "old a")) == [1, math.inf]


needs_history: Final = pytest.mark.skipif(
    not (ROOT / ".git").exists(), reason="it needs the repository"
)


@needs_history
def test_the_working_tree_is_compared_with_a_revision(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Expect each server to run its tree's websuckets; figures are kept where that is asked for."""
    monkeypatch.setattr(against, "ROUNDS", 2)
    monkeypatch.setattr(measure, "TURN", 0.05)
    given = ["--against", "HEAD", "--jobs", "plain", "--seconds", "0.05", "--bar", "1000"]
    assert program.run_against(program.arguments([*given, "--output", str(tmp_path)]))
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row[:2] == ["plain", "websuckets/asyncio"] and row[-1] == "yes"
    content: dict[str, Any] = json.loads((tmp_path / "against.json").read_text())
    assert {entry["subject"][:3] for entry in content["results"]} == {"old", "new"}


@needs_history
def test_each_tree_has_its_own_copy() -> None:
    """Expect one copy of the committed tree, and one of the working tree."""
    with against.trees("HEAD") as both:
        for root in (both.old, both.new):
            assert (root / "websuckets" / "__init__.py").is_file()
        ours = Path(program.__file__).read_text()
        assert (both.new / "benchmarks" / "__main__.py").read_text() == ours
    assert not both.old.exists()


@needs_history
def test_what_is_not_a_revision_is_told() -> None:
    """Expect git's own error."""
    with pytest.raises(NoComparison, match="no-such-revision"), against.trees("no-such-revision"):
        pass


@pytest.mark.parametrize(
    "given",
    [
        ["growth", "--against", "HEAD"],
        ["--against", "HEAD", "--readme"],
        ["--against", "HEAD", "--rounds", "14"],
        ["--bar", "1.03"],
    ],
)
def test_arguments_that_do_not_go_together_are_refused(given: list[str]) -> None:
    """Expect an error, also for too few rounds: a comparison has one mode."""
    with pytest.raises(SystemExit):
        program.arguments(given)
