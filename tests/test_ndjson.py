"""Pieces of a body to lines, wherever the pieces end."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.ndjson import Lines

LIMIT = 8  # bytes


def lines_of(*pieces: bytes) -> list[bytes | None]:
    lines = Lines(LIMIT)
    return [line for piece in pieces for line in lines.feed(piece)] + lines.end()


def test_lines() -> None:
    assert lines_of() == []
    assert lines_of(b"one\ntwo\n") == [b"one", b"two"]
    assert lines_of(b"one\ntwo") == [b"one", b"two"]
    assert lines_of(b"o", b"ne", b"\n", b"two") == [b"one", b"two"]
    assert lines_of(b"\n\r\n\n") == [b"", b"\r", b""]
    assert lines_of(b"x" * LIMIT + b"\n", b"x" * LIMIT) == [b"x" * LIMIT] * 2


def test_a_line_over_the_limit_is_dropped_and_the_next_one_is_not() -> None:
    long = b"x" * (LIMIT + 1)
    for pieces in ([long + b"\nnext"], [long, long, b"\nnext"], [b"x", long, long + b"\nne", b"xt\n"]):
        assert lines_of(*pieces) == [None, b"next"]
    assert lines_of(long) == [None]


def test_a_line_without_end_takes_no_memory() -> None:
    lines = Lines(LIMIT)
    for _ in range(1000):
        assert lines.feed(b"x" * 1000) == []
        assert len(lines._rest) <= LIMIT


@given(st.lists(st.text("ab\n\r", max_size=12).map(str.encode), max_size=12))
def test_where_pieces_end_does_not_matter(pieces: list[bytes]) -> None:
    body = b"".join(pieces)
    expected = body.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert lines_of(*pieces) == [line if len(line) <= LIMIT else None for line in expected]
