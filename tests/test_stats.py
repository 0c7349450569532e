"""The counters: two formats, exactly as kuiperbelt writes them, and a slot per process (contract: GET ping, stats)."""

import json
import time

from proxy.stats import BUCKETS, Stats


def counted() -> Stats:
    stats = Stats()
    stats.connections, stats.total_connections, stats.total_messages = 1, 2, 3
    stats.connect_errors, stats.message_errors, stats.closing_connections = 4, 5, 6
    return stats


def test_json() -> None:
    assert counted().as_json() == (
        b'{"connections":1,"total_connections":2,"total_messages":3,'
        b'"connect_errors":4,"message_errors":5,"closing_connections":6}\n'
    )


def test_full_json_has_every_counter() -> None:
    full = json.loads(counted().as_full_json())
    assert list(full) == list(Stats.counters)
    assert (full["connections"], full["closing_connections"], full["callbacks_refused"]) == (1, 6, 0)


def test_tsv() -> None:
    lines = [line.split("\t") for line in counted().as_tsv().decode().splitlines()]
    assert [line[:2] for line in lines] == [
        ["kuiperbelt.conn.current", "1"],
        ["kuiperbelt.conn.total", "2"],
        ["kuiperbelt.conn.errors", "4"],
        ["kuiperbelt.conn.closing", "6"],
        ["kuiperbelt.messages.total", "3"],
        ["kuiperbelt.messages.errors", "5"],
    ]
    assert all(abs(int(line[2]) - time.time()) < 5 for line in lines)


def test_counters_are_plain_numbers_to_their_users() -> None:
    stats = Stats()
    stats.connections += 2
    stats.connections -= 1
    stats.link_gap_ms += 1 << 40
    assert (stats.connections, stats.link_gap_ms) == (1, 1 << 40)


def test_every_number_has_a_meaning_and_a_place_of_its_own() -> None:
    assert [numbers.name for numbers in Stats.numbers if not numbers.meaning] == []
    taken = [place + i for numbers in Stats.numbers for place in numbers.places.values() for i in range(numbers.width)]
    assert taken == list(range(Stats.width))


def test_totals_are_over_all_slots() -> None:
    """That processes see each other's is in test_workers.py."""
    stats = Stats()
    stats.share(3)
    for number in (1, 2, 0):
        stats.use_slot(number)
        stats.connections += number + 1
        stats.no_answers += 10
    assert stats.connections == 1
    assert stats.totals() | {"connections": 6, "no_answers": 30} == stats.totals()
    assert stats.as_json().startswith(b'{"connections":6,')
    assert stats.as_tsv().startswith(b"kuiperbelt.conn.current\t6\t")


def test_what_a_dead_process_had_under_way_is_gone_and_what_it_did_stays() -> None:
    stats = Stats()
    stats.share(2)
    for number in (0, 1):
        stats.use_slot(number)
        stats.connections, stats.closing_connections, stats.total_connections = 1, 2, 3
    stats.clear_gauges(1)
    totals = stats.totals()
    assert (totals["connections"], totals["closing_connections"], totals["total_connections"]) == (1, 2, 6)
    assert stats.connections == 0


def test_of_ages_the_greatest_counts() -> None:
    stats = Stats()
    stats.share(2)
    for number, age in enumerate((7, 3)):
        stats.use_slot(number)
        stats.registry_lag_ms = age
        stats.observe(Stats.loop_lag[()], 0.02)
    assert stats.totals()["registry_lag_ms"] == 7
    stats.clear_gauges(0)
    assert stats.totals()["registry_lag_ms"] == 3
    first = Stats.loop_lag[()]
    assert sum(stats.read()[first : first + len(BUCKETS) + 1]) == 2
