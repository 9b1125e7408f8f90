"""Pauses between attempts to connect, and the close codes after which there are none."""

import random
from datetime import UTC, datetime

import pytest

from websuckets.client import CLOSE_CODES, Backoff, Retry
from websuckets.client.reconnecting import ConnectionEnd, Reconnecting, retry_after_seconds

HALF = Backoff(first=1, most=30, later=60, stable=30, random=lambda: 0.5)
LOST = ConnectionEnd(1006)


def pauses(*ends: ConnectionEnd, can_authenticate: bool = False) -> list[float | None]:
    """Return the pauses after these ends, one after the other."""
    reconnecting = Reconnecting(HALF, {})
    return [reconnecting.pause_after(end, can_authenticate=can_authenticate) for end in ends]


def test_the_limit_of_the_pause_doubles_up_to_its_end() -> None:
    assert pauses(*[LOST] * 8) == [0.5, 1, 2, 4, 8, 15, 15, 15]


def test_pauses_of_a_thousand_clients_are_spread_over_the_whole_time() -> None:
    numbers = random.Random(1)
    backoff = Backoff(first=1, most=30, random=numbers.random)
    found = []
    for _ in range(1000):
        client = Reconnecting(backoff, {})
        for _ in range(5):
            client.pause_after(LOST, can_authenticate=False)
        pause = client.pause_after(LOST, can_authenticate=False)
        assert pause is not None and 0 <= pause <= 30
        found.append(pause)
    in_each_second = [sum(second <= pause < second + 1 for pause in found) for second in range(30)]
    assert min(in_each_second) > 10
    assert max(in_each_second) < 70  # of 1,000, about 33 are expected


def test_the_first_pauses_of_a_thousand_clients_are_spread_too() -> None:
    backoff = Backoff(random=random.Random(2).random)
    found = sorted(backoff.pause(0) for _ in range(1000))
    assert found[0] < 0.01 and found[-1] > 0.49
    assert 0.2 < found[500] < 0.3


def test_a_connection_that_has_lasted_begins_the_count_anew() -> None:
    lasted = ConnectionEnd(1006, lasted=30.0)
    assert pauses(LOST, LOST, LOST, lasted, LOST) == [0.5, 1, 2, 0.5, 1]


def test_a_connection_that_was_short_does_not_begin_the_count_anew() -> None:
    short = ConnectionEnd(1006, lasted=29.0)
    assert pauses(LOST, short, short) == [0.5, 1, 2]


@pytest.mark.parametrize("code", [1000, 1002, 1003, 1007, 1008, 1010])
def test_codes_that_another_attempt_does_not_mend_are_final(code: int) -> None:
    assert pauses(ConnectionEnd(code)) == [None]


@pytest.mark.parametrize("code", [1001, 1005, 1006, 1011, 1012, 1013, 1014, 3000, 4000])
def test_other_codes_are_followed_by_a_backoff(code: int) -> None:
    assert pauses(ConnectionEnd(code), ConnectionEnd(code)) == [0.5, 1]


def test_the_connection_of_a_message_that_was_too_big_is_replaced_at_once() -> None:
    big = ConnectionEnd(1009)
    assert pauses(big, big, LOST) == [0, 0.5, 1]


def test_a_client_that_was_too_fast_waits_for_longer() -> None:
    assert pauses(ConnectionEnd(4429)) == [60.5]


def test_a_refused_token_is_final_without_another_one() -> None:
    assert pauses(ConnectionEnd(4401)) == [None]
    assert pauses(ConnectionEnd(4408)) == [None]


def test_a_refused_token_is_followed_by_one_attempt_with_another_one() -> None:
    refused = ConnectionEnd(4401)
    assert pauses(refused, refused, can_authenticate=True) == [0.5, None]
    lasted = ConnectionEnd(4401, lasted=30.0)
    assert pauses(refused, lasted, can_authenticate=True) == [0.5, 0.5]
    assert pauses(refused, LOST, refused, can_authenticate=True) == [0.5, 1, 2]


@pytest.mark.parametrize("status", [200, 301, 400, 401, 403, 404, 410, 426])
def test_a_handshake_that_is_refused_for_good_is_final(status: int) -> None:
    assert pauses(ConnectionEnd(status=status, retry_after=1)) == [None]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503])
def test_a_handshake_that_is_refused_for_now_is_tried_again(status: int) -> None:
    assert pauses(ConnectionEnd(status=status), LOST) == [0.5, 1]


def test_the_server_says_how_long_a_client_waits() -> None:
    assert pauses(ConnectionEnd(status=503, retry_after=100)) == [100.5]


def test_a_program_may_decide_otherwise_about_a_code() -> None:
    reconnecting = Reconnecting(HALF, {1000: Retry.BACKOFF, 4000: Retry.NEVER})
    assert reconnecting.pause_after(ConnectionEnd(1000), can_authenticate=False) == 0.5
    assert reconnecting.pause_after(ConnectionEnd(4000), can_authenticate=False) is None
    assert CLOSE_CODES[1000] is Retry.NEVER


def test_a_header_retry_after_is_a_number_or_a_date() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert retry_after_seconds("120", now) == 120
    assert retry_after_seconds("Thu, 01 Jan 2026 00:01:00 GMT", now) == 60
    assert retry_after_seconds("Wed, 31 Dec 2025 00:01:00 GMT", now) == 0
    assert retry_after_seconds("Thu, 01 Jan 2026 00:01:00 -0000", now) == 60
    assert retry_after_seconds("soon", now) is None
    assert retry_after_seconds("-1", now) is None
    assert retry_after_seconds(None, now) is None


@pytest.mark.parametrize(
    "options", [{"first": 0}, {"first": 2, "most": 1}, {"later": -1}, {"stable": -1}]
)
def test_a_backoff_that_makes_no_sense_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Backoff"):
        Backoff(**options)
