"""The counters' two formats, exactly as kuiperbelt writes them (contract: GET ping, stats)."""

import time

from proxy.stats import Stats


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
