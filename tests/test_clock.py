"""The process's own clock, and ids that sort by time."""

from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID

from proxy.clock import new_connection, new_event, process_time


def test_it_shows_the_time_of_day() -> None:
    assert abs(process_time() - datetime.now(UTC)) < timedelta(minutes=1)


def test_it_goes_forward() -> None:
    assert process_time() <= process_time() < process_time(after=5)


def test_ids_are_uuids_that_begin_with_the_time() -> None:
    ids = [new_connection() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert {(UUID(each).version, UUID(each).variant) for each in ids} == {(7, UUID(ids[0]).variant)}
    assert [each[:13] for each in ids] == sorted(each[:13] for each in ids)


def test_ids_of_events_are_random_uuids() -> None:
    ids = [UUID(new_event()) for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert {(each.version, each.variant) for each in ids} == {(4, RFC_4122)}
