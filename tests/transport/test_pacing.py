"""How hard a server is pressed, when it counts as gone, and what its Retry-After says."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring.transport.guard import Breaker, Pace, retry_after

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


def test_the_pace_halves_when_half_of_the_last_eight_were_too_many():
    pace = Pace(32)
    for _ in range(4):
        pace.record(pressed=False)
    for _ in range(3):
        pace.record(pressed=True)
    assert pace.limit == 32
    pace.record(pressed=True)
    assert pace.limit == 16


def test_the_pace_grows_by_one_for_every_four_that_went_well_and_never_beyond_its_most():
    pace = Pace(12)
    for _ in range(4):
        pace.record(pressed=True)
    assert pace.limit == 6
    for _ in range(4 * 5):
        pace.record(pressed=False)
    assert pace.limit == 11
    for _ in range(100):
        pace.record(pressed=False)
    assert pace.limit == 12


@given(st.lists(st.booleans()))
def test_the_pace_stays_between_one_and_its_most(told):
    pace = Pace(7)
    for pressed in told:
        pace.record(pressed)
        assert 1 <= pace.limit <= 7


def test_one_failure_in_eight_costs_no_pace():
    pace = Pace(32)
    for number in range(800):
        pace.record(number % 8 == 0)
    assert pace.limit == 32


def test_the_breaker_opens_at_the_twentieth_failure_in_a_row_and_closes_at_a_success():
    breaker = Breaker()
    for told in [True] * 19 + [False] + [True] * 19:
        breaker.record(told, now=5.0)
    assert breaker.since is None
    breaker.record(failed=True, now=7.5)
    breaker.record(failed=True, now=9.0)
    assert breaker.since == 7.5
    breaker.record(failed=False, now=11.0)
    assert breaker.since is None


def test_pauses_of_an_open_breaker_double_to_half_a_minute_and_begin_anew():
    breaker = Breaker(first_pause=2.0)
    for _ in range(2):
        for _ in range(20):
            breaker.record(failed=True, now=0.0)
        assert [breaker.pause() for _ in range(6)] == [2, 4, 8, 16, 30, 30]
        breaker.record(failed=False, now=0.0)


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("3", 3),
        (" 17 ", 17),
        ("7200", 60),
        (format_datetime(NOW + timedelta(seconds=9), usegmt=True), 9),
        (format_datetime(NOW + timedelta(days=9), usegmt=True), 60),
        (format_datetime(NOW - timedelta(seconds=9), usegmt=True), 0),
        ("Sat, 21 Nov 2026 12:00:05", 0),
        ("-3", 0),
        ("soon", 0),
        ("²", 0),
        ("9" * 5000, 60),
        ("", 0),
        (None, 0),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date_and_capped_at_a_minute(told, seconds):
    assert retry_after(told, NOW) == seconds
