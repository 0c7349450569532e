"""How long, and how often, the backend is told. Real backends that fail: test_registry."""

from proxy.close_events import MAX_DELAY, delay_after, is_over


def test_delays_grow_to_a_limit() -> None:
    assert [delay_after(attempts) for attempts in range(1, 9)] == [1, 2, 4, 8, 16, 32, MAX_DELAY, MAX_DELAY]
    assert delay_after(10_000) == MAX_DELAY


def test_it_is_tried_for_as_long_as_the_option_says() -> None:
    for limit in (0.0, 1.0, 300.0, 3600.0):
        attempts = next(count for count in range(1, 1000) if is_over(count, limit))
        tried_for = sum(delay_after(attempt) for attempt in range(1, attempts))
        assert limit <= tried_for < limit + MAX_DELAY + 1
