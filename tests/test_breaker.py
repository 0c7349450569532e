"""The circuit breaker's states, and what it says about them."""

import logging
import time

import pytest

from proxy import breaker
from proxy.breaker import Breaker
from proxy.exceptions import BackendBusy
from proxy.stats import stats

PAUSE = 0.05


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "FIRST_PAUSE", PAUSE)


def opened(limit: int = 3) -> Breaker:
    one = Breaker("http://backend", limit)
    assert [one.failed(one.enter()) for _ in range(limit)] == [False] * (limit - 1) + [True]
    return one


def test_failures_in_a_row_open_it_others_do_not() -> None:
    one = Breaker("http://backend", 2)
    for _ in range(5):
        assert not one.failed(one.enter())
        one.answered(one.enter())
    assert not one.is_open
    assert opened().is_open


def test_what_was_asked_before_it_opened_does_not_open_it_again() -> None:
    asked = time.monotonic()
    one = opened()
    time.sleep(PAUSE)
    probe = one.enter()
    one.answered(probe)
    one.leave(probe)
    assert not any(one.failed(0, asked) for _ in range(9))
    assert not one.is_open
    assert [one.failed(0, time.monotonic()) for _ in range(3)] == [False, False, True]


def test_without_a_limit_it_stays_closed() -> None:
    one = Breaker("http://backend", 0)
    assert not any(one.failed(one.enter()) for _ in range(100))


def test_one_probe_at_a_time_after_a_pause_that_grows() -> None:
    one = opened()
    with pytest.raises(BackendBusy) as refused:
        one.enter()
    assert refused.value.retry_after == 1
    time.sleep(PAUSE)
    probe = one.enter()
    assert probe
    with pytest.raises(BackendBusy):
        one.enter()
    assert not one.failed(probe)
    one.leave(probe)
    time.sleep(PAUSE)
    with pytest.raises(BackendBusy):  # the second pause is twice as long
        one.enter()
    time.sleep(PAUSE)
    one.leave(one.enter())  # cancelled: the next one is the probe
    probe = one.enter()
    one.answered(probe)
    one.leave(probe)
    assert not one.is_open
    assert not one.enter()


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> tuple[Breaker, int, int]:
    """An open breaker, a probe that hangs, as it may for ever with callback.timeout 0, and the one it made way for."""
    monkeypatch.setattr(breaker, "PROBE_LIMIT", 2 * PAUSE)
    one = opened()
    time.sleep(PAUSE)
    first = one.enter()
    with pytest.raises(BackendBusy):
        one.enter()
    time.sleep(2 * PAUSE)
    monkeypatch.setattr(breaker, "PROBE_LIMIT", 9.0)
    return one, first, one.enter()


def test_a_probe_that_hangs_makes_way_for_the_next(hung: tuple[Breaker, int, int]) -> None:
    failing = stats.backends_failing
    one, first, second = hung
    assert first
    assert second
    one.answered(second)
    one.leave(second)
    one.failed(first)  # it breaks after all, then answers, which changes nothing
    one.answered(first)
    one.leave(first)
    assert not one.is_open
    assert stats.backends_failing == failing - 1


def test_a_probe_that_has_hung_ends_without_a_third_beside_the_second(hung: tuple[Breaker, int, int]) -> None:
    one, first, second = hung
    one.failed(first)
    one.leave(first)
    time.sleep(2 * PAUSE)  # as long as a pause would be, if it had counted as the second one's failure
    with pytest.raises(BackendBusy):
        one.enter()
    one.failed(second)
    one.leave(second)
    with pytest.raises(BackendBusy):
        one.enter()
    time.sleep(2 * PAUSE)
    one.leave(one.enter())
    one.answered(first)  # late, but it says that the backend lives
    assert not one.is_open


def test_a_probe_of_before_it_opened_last_says_nothing(hung: tuple[Breaker, int, int]) -> None:
    one, first, second = hung
    one.answered(second)
    one.leave(second)
    assert [one.failed(one.enter()) for _ in range(3)] == [False, False, True]
    one.answered(first)
    assert one.is_open
    time.sleep(PAUSE)
    assert one.enter()
    one.leave(first)
    with pytest.raises(BackendBusy):
        one.enter()


def test_late_answers_and_failures_of_before_change_nothing() -> None:
    one = opened()
    one.answered(0)
    assert one.is_open
    assert not one.failed(0)


def test_it_is_said_and_counted_once(caplog: pytest.LogCaptureFixture) -> None:
    before, failing = stats.backend_failures, stats.backends_failing
    with caplog.at_level(logging.INFO, "proxy.backend"):
        one = opened()
        for _ in range(5):
            one.failed(0)
        assert (stats.backend_failures, stats.backends_failing) == (before + 1, failing + 1)
        time.sleep(PAUSE)
        probe = one.enter()
        one.failed(probe)
        one.answered(probe)
    assert [record.getMessage() for record in caplog.records] == [
        "backend http://backend: 3 callbacks in a row without an answer",
        "backend http://backend: answers again; 0 callbacks weren't made meanwhile",
    ]
    assert stats.backends_failing == failing
