"""Reports: what is shown of contents, and which of those that come over Redis are taken."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import reports

SENT = {"what": "sent", "n": 0, "at": "2026-11-27T00:00:00.000Z", "connection": "c", "type": "text", "size": 5}


@pytest.mark.parametrize(
    ("payload", "room", "expected"),
    [
        ("ü", 10, {"content": "ü"}),
        (b"\xff", 10, {"content": "/w==", "encoding": "base64"}),
        ("text", 3, {"content": "tex", "cut": True}),
        ("text", -3, {"content": "", "cut": True}),
        ("", 0, {"content": ""}),
        ("x" * 5000, 10_000, {"content": "x" * 4096, "cut": True}),
    ],
)
def test_contents(payload: str | bytes, room: int, expected: reports.Report) -> None:
    assert reports.content(payload, room) == expected


def test_bodies_and_words() -> None:
    assert reports.body("snow ☃".encode()) == "snow ☃"
    assert reports.body(b"\xff") == b"\xff"
    assert reports.words(ValueError("a\nb\ud800" + "x" * 1000)) == "a\\nb\\ud800" + "x" * 496


@pytest.mark.parametrize("more", [{}, {"content": "x" * 4096}, {"ms": 0.5}, {"status": None}, {"cut": True}])
def test_reports_that_are_taken(more: dict[str, Any]) -> None:
    assert reports.is_from_session(SENT | more)


@pytest.mark.parametrize(
    "found",
    [
        None,
        [],
        {},
        SENT | {"what": "absent"},  # a watcher's own
        SENT | {"what": ["sent"]},
        SENT | {"n": -1},
        SENT | {"n": True},
        SENT | {"n": 0.5},
        SENT | {"connection": None},
        SENT | {"at": 5},
        SENT | {"ms": float("nan")},
        SENT | {"content": {"deep": 1}},
        SENT | {"content": b"bytes"},
        SENT | {"content": "x" * 10_000},
        SENT | {7: "x"},
        SENT | {f"field{number}": 1 for number in range(20)},
    ],
)
def test_reports_that_are_not(found: object) -> None:
    assert not reports.is_from_session(found)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*SENT, "ms"]) | st.integers(), VALUES))
def test_whatever_comes_is_taken_or_not(found: dict[Any, Any]) -> None:
    assert reports.is_from_session(SENT | found) in (True, False)
