"""The oracle of the chaos run, which sees each broken promise in a history made up for it."""

from collections.abc import Callable

import pytest
from chaos_client import Screen
from chaos_faults import FIRST, KINDS, schedule
from chaos_history import (
    Acknowledged,
    At,
    Disturbance,
    Effect,
    GapTold,
    Histories,
    Left,
    Log,
    Record,
    Seen,
    Subscribed,
    Value,
)
from chaos_oracle import WINDOW, Verdict, judge

BOARD = "board/0"
EPOCH = "e"
ANN = "ann"


def seen(offset: int) -> Seen:
    """Return an event of the history, whose offset is also the number of its effect."""
    return Seen(BOARD, offset, offset, f"c{offset}")


def subscribed(offset: int, recovered: bool | None = None, since: At | None = None) -> Subscribed:
    return Subscribed(BOARD, At(EPOCH, offset), recovered, since)


RECORDS: list[Record] = [
    subscribed(0),
    seen(1),
    Acknowledged("c1", 1),
    seen(2),
    Left(),
    subscribed(4, True, At(EPOCH, 2)),
    seen(3),
    seen(4),
    GapTold(BOARD),
    seen(6),
    subscribed(6),
    Acknowledged("c7", 7),
    seen(7),
]
"""Records of a client that was away once, and was told of a gap once."""


def effect(number: int, command: str | None = None, node: str = "node 1.1") -> Effect:
    name = f"c{number}" if command is None else command
    return Effect(number, name, BOARD, "item", 10, node, float(number))


def right(log: str = "sql") -> Histories:
    """Return histories without a violation."""
    made = Histories(log, size={BOARD: 100}, recovery=300, doomed={"doomed"})
    made.records[ANN] = list(RECORDS)
    made.effects = [effect(number) for number in range(1, 8)]
    made.logs[BOARD] = Log(EPOCH, 7, {number: (number, f"c{number}") for number in range(1, 8)})
    made.items[BOARD]["item"] = Value(70, 7)
    made.screens[ANN] = {BOARD: {"item": Value(70, 7)}}
    return made


def kinds(verdict: Verdict) -> set[str]:
    return {violation.kind for violation in verdict.violations}


def add_effect(made: Histories, more: Effect) -> None:
    """Add an effect to the database, with what belongs to it."""
    made.effects.append(more)
    log = made.logs[BOARD]
    log.head += 1
    log.events[log.head] = (more.id, more.command)
    total = Value(made.items[BOARD]["item"].value + 10, made.items[BOARD]["item"].version + 1)
    made.items[BOARD]["item"] = made.screens[ANN][BOARD]["item"] = total
    made.records[ANN].append(Seen(BOARD, log.head, more.id, more.command))


@pytest.mark.parametrize("log", ["sql", "redis"])
def test_histories_without_a_fault_have_no_violation(log: str) -> None:
    assert judge(right(log)) == ([], 0, 0, 0)


Change = Callable[[Histories], object]


def replacing(index: int, *records: Record) -> Change:
    """Return a change that puts other records into the place of one."""

    def change(made: Histories) -> None:
        made.records[ANN][index : index + 1] = records

    return change


def lose_an_effect(made: Histories) -> None:
    del made.effects[0], made.logs[BOARD].events[1]


def lose_an_event(made: Histories) -> None:
    del made.logs[BOARD].events[3]


def append_twice(made: Histories) -> None:
    made.logs[BOARD].head = 8
    made.logs[BOARD].events[8] = (7, "c7")


WRONG: dict[str, tuple[Change, str]] = {
    "acknowledged, and lost": (lose_an_effect, "acknowledged without its effect"),
    "reply of an effect that there is not": (
        replacing(2, Acknowledged("c1", 99)),
        "acknowledged without its effect",
    ),
    "two replies": (
        replacing(2, Acknowledged("c1", 1), Acknowledged("c1", 2)),
        "different replies",
    ),
    "effect twice": (lambda made: add_effect(made, effect(8, "c7")), "effect twice"),
    "effect of a doomed command": (
        lambda made: add_effect(made, effect(8, "doomed")),
        "effect of a rolled-back transaction",
    ),
    "reply of a doomed command": (
        replacing(2, Acknowledged("c1", 1), Acknowledged("doomed", 1)),
        "acknowledged although it was rolled back",
    ),
    "lost update": (
        lambda made: made.items[BOARD].update(item=Value(60, 7)),
        "item that is not the sum of its effects",
    ),
    "wrong screen": (
        lambda made: made.screens[ANN][BOARD].update(item=Value(60, 6)),
        "screen that differs from the database",
    ),
    "empty screen": (
        lambda made: made.screens[ANN][BOARD].clear(),
        "screen that differs from the database",
    ),
    "event that was left out": (replacing(1), "gap that was not told"),
    "event left out while catching up": (replacing(6), "gap that was not told"),
    "event left out after a reload": (
        replacing(9),  # so that the first event after the gap comes behind the position
        "gap that was not told",
    ),
    "event twice": (replacing(3, seen(2), seen(2)), "duplicate or out of order"),
    "event again after catching up": (replacing(6, seen(2), seen(3)), "duplicate or out of order"),
    "events in the wrong order": (replacing(6, seen(4), seen(3)), "duplicate or out of order"),
    "event of nobody's subscription": (replacing(0), "event without a subscription"),
    "last event that never came": (replacing(12), "events that never came"),
    "recovered from the future": (
        replacing(5, subscribed(4, True, At(EPOCH, 5))),
        "recovered from elsewhere",
    ),
    "gap without need": (replacing(3, seen(2), GapTold(BOARD)), "needless gap"),
    "reload without need": (
        replacing(5, subscribed(2, False, At(EPOCH, 2))),
        "needless reload",
    ),
    "event of a rolled-back transaction": (
        replacing(3, Seen(BOARD, 2, 99, "doomed")),
        "event of a rolled-back transaction",
    ),
    "another event at the same offset": (
        replacing(3, Seen(BOARD, 2, 1, "c1")),
        "one offset, two events",
    ),
    "event twice in the log": (append_twice, "event twice in a log"),
    "hole in the log": (lose_an_event, "hole in a log"),
    "event beyond the head": (
        lambda made: made.logs[BOARD].events.update({9: (7, "c7")}),
        "event beyond the head of its log",
    ),
    "effect without an event": (
        lambda made: made.effects.append(effect(8)),
        "effect without its event",
    ),
    "effects without a log": (lambda made: made.logs.clear(), "effect without its event"),
    "client that does not finish": (
        lambda made: made.unfinished.append(ANN),
        "not finished in time",
    ),
    "connection that stays": (
        lambda made: made.open_connections.update({"node 1": 1}),
        "connection left open",
    ),
    "transaction that stays": (
        lambda made: setattr(made, "open_transactions", 1),
        "transaction left open",
    ),
    "node that dies": (lambda made: made.dead_nodes.append("node 1"), "node that ended by itself"),
}


@pytest.mark.parametrize("name", WRONG)
def test_each_broken_promise_is_reported_as_what_it_is(name: str) -> None:
    change, kind = WRONG[name]
    made = right()
    change(made)
    if name == "event left out after a reload":
        made.records[ANN][-1] = seen(8)
    if "without need" in name:
        made.size[BOARD] = 1000
    assert kind in kinds(judge(made))


def test_events_are_compared_between_clients() -> None:
    made = right()
    made.records["bob"] = [subscribed(6), Seen(BOARD, 7, 6, "c6")]
    assert "one offset, two events" in kinds(judge(made))


@pytest.mark.parametrize(("first", "found"), [(2, set()), (1, {"duplicate or out of order"})])
def test_events_go_on_where_the_connection_was_before_a_later_position(
    first: int, found: set[str]
) -> None:
    made = right()
    made.records[ANN] = [
        *(subscribed(0), seen(1), subscribed(3)),
        *(seen(number) for number in range(first, 8)),
    ]
    assert kinds(judge(made)) == found


@pytest.mark.parametrize(("first", "found"), [(4, set()), (3, {"duplicate or out of order"})])
@pytest.mark.parametrize(
    "before",
    [
        [subscribed(0), seen(1), GapTold(BOARD), seen(3)],
        [subscribed(0), seen(1), subscribed(2), seen(2), seen(3)],
        [subscribed(0), seen(1), subscribed(1), GapTold(BOARD), seen(3)],
    ],
    ids=["a gap", "an earlier position", "an earlier position and a gap"],
)
def test_events_go_on_where_the_connection_was_behind(
    before: list[Record], first: int, found: set[str]
) -> None:
    made = right()
    made.records[ANN] = [
        *before,
        subscribed(5),
        *(seen(number) for number in range(first, 8)),
    ]
    assert kinds(judge(made)) == found


def test_an_epoch_that_was_told_by_a_gap_begins_anew() -> None:
    made = right()
    made.logs[BOARD] = Log("f", 1, {1: (7, "c7")})
    made.records[ANN] = [
        subscribed(0),
        *(seen(number) for number in range(1, 7)),
        GapTold(BOARD),
        Subscribed(BOARD, At("f", 0)),
        Seen(BOARD, 1, 7, "c7"),
    ]
    assert kinds(judge(made)) == {"effect without its event"}  # as a log in SQL never begins anew
    made.log = "redis"
    assert judge(made).violations == []


@pytest.mark.parametrize("log", ["sql", "redis"])
@pytest.mark.parametrize("begin", [WINDOW - 1, WINDOW + 1])
def test_effects_twice_are_excused_in_the_documented_window_alone(log: str, begin: float) -> None:
    made = right(log)
    add_effect(made, effect(8, "c7"))
    made.disturbances.append(Disturbance("node 1.1", "killed", 7 + begin, float("inf")))
    verdict = judge(made)
    is_allowed = log == "redis" and begin < WINDOW
    assert verdict.in_window == is_allowed
    assert kinds(verdict) == (set() if is_allowed else {"effect twice"})


@pytest.mark.parametrize("node", ["node 1.2", "node 2.1"])
def test_effects_twice_are_not_excused_by_the_death_of_another_node(node: str) -> None:
    made = right("redis")
    add_effect(made, effect(8, "c7"))
    made.disturbances.append(Disturbance(node, "killed", 7, float("inf")))
    assert kinds(judge(made)) == {"effect twice"}


@pytest.mark.parametrize(
    ("disturbances", "is_allowed"),
    [
        ([("stopped", 0, 7)], True),
        ([("stopped", 0, 5)], False),
        ([("stopped", 0, 4), ("no redis", 4, 8)], True),
        ([("stopped", 0, 4), ("no redis", 9, 12)], False),
        ([("no redis", -20, -1)], False),
    ],
)
def test_effects_twice_are_excused_by_a_lost_lease_alone(
    disturbances: list[tuple[str, float, float]], is_allowed: bool
) -> None:
    made = right("redis")
    add_effect(made, effect(8, "c7"))
    for cause, begin, end in disturbances:
        made.disturbances.append(Disturbance("node 1.1", cause, 7 + begin, 7 + end))
    assert kinds(judge(made)) == (set() if is_allowed else {"effect twice"})


@pytest.mark.parametrize(("begin", "is_allowed"), [(1, True), (WINDOW + 1, False)])
def test_effects_twice_after_a_commit_without_an_answer_are_counted_apart(
    begin: float, is_allowed: bool
) -> None:
    made = right("redis")
    add_effect(made, effect(8, "c7"))
    made.disturbances.append(Disturbance("node 1.1", "no database", 7 + begin, 60))
    verdict = judge(made)
    assert (verdict.in_window, verdict.unknown) == (0, is_allowed)
    assert kinds(verdict) == (set() if is_allowed else {"effect twice"})


def test_a_log_in_redis_may_lack_an_event_but_not_have_another_one() -> None:
    made = right("redis")
    made.effects.append(effect(8))
    made.items[BOARD]["item"] = Value(80, 8)
    assert judge(made) == ([], 0, 0, 1)
    made.logs[BOARD].head = 8
    made.logs[BOARD].events[8] = (99, "doomed")
    assert "event of a rolled-back transaction" in kinds(judge(made))


def test_a_seed_has_one_schedule_without_two_faults_of_one_target_at_once() -> None:
    assert schedule(1, 600) == schedule(1, 600) != schedule(2, 600)
    faults = schedule(1, 600)
    assert {fault.kind for fault in faults} == KINDS.keys()
    assert {fault.target for fault in faults} == {
        target for targets, *_ in KINDS.values() for target in targets
    }
    for fault in faults:
        assert FIRST <= fault.at < 600
        for other in faults:
            if other is not fault and other.target == fault.target:
                assert not fault.at <= other.at <= fault.at + fault.seconds


def test_a_screen_keeps_what_came_while_it_was_loaded() -> None:
    screen = Screen()
    screen.change(8, "a", Value(3, 3))
    screen.load({"a": Value(2, 2), "b": Value(1, 1)}, At(EPOCH, 7))
    assert screen.items == {"a": Value(3, 3), "b": Value(1, 1)}
    assert screen.at == At(EPOCH, 8)


def test_a_screen_that_is_loaded_forgets_what_is_not_there_any_more() -> None:
    screen = Screen({"a": Value(5, 5)})
    screen.load({"a": Value(4, 4)}, At(EPOCH, 1))
    assert screen.items == {"a": Value(4, 4)}
