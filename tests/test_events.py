"""Events for sessions, and which of those that come from elsewhere can be used."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.events import (
    CLAIM,
    CLOSE,
    SEND,
    SHARED,
    WATCH,
    claim_event,
    close_event,
    is_valid,
    late,
    send_event,
    watch_event,
)
from proxy.protocol import Frame

TEXT, BINARY = Frame("hello", 5), Frame(b"\x00", 1)
SENT = send_event(TEXT, 0.0)
CLOSED = close_event(None, 1000, "")
CLAIMED = claim_event("x", 1.0, fresh=True)
WATCHED = watch_event(f"watch.{'0' * 32}!1f", contents=True, lease=15.0)


@pytest.mark.parametrize(
    "event",
    [
        SENT,
        send_event(BINARY, 1.5),
        CLOSED,
        close_event(TEXT, 4999, "x" * 123, tell=True),
        {name: value for name, value in CLOSED.items() if name != "tell"},  # as an older release says it
        CLAIMED,
        WATCHED,
        watch_event("watch!0", contents=False, lease=0),
        SENT | {"what a newer version may add": 1},
    ],
)
def test_what_is_made_here_is_valid(event: dict[str, Any]) -> None:
    assert is_valid(event)


@pytest.mark.parametrize(
    "event",
    [
        None,
        [],
        {},
        {"type": ["session.send"]},
        {"type": SHARED},  # nobody else may say that
        {"type": SEND},
        SENT | {"message": {"type": "websocket.close", "code": 1000}},
        SENT | {"message": {"type": "websocket.send", "text": b"bytes"}},
        SENT | {"message": {"type": "websocket.send", "text": "a", "bytes": b"b"}},
        SENT | {"size": -1},
        SENT | {"size": "5"},
        SENT | {"timeout": -1.0},
        SENT | {"timeout": float("nan")},
        SENT | {"timeout": None},
        {"type": CLOSE},
        CLOSED | {"code": 1006},
        CLOSED | {"code": 1e3},
        CLOSED | {"reason": "ü" * 62},
        CLOSED | {"reason": b""},
        CLOSED | {"last": "text"},
        CLOSED | {"tell": 1},
        {"type": CLAIM},
        CLAIMED | {"since": "now"},
        CLAIMED | {"fresh": 1},
        {"type": WATCH},
        WATCHED | {"channel": "general"},
        WATCHED | {"channel": "no such name!1"},
        WATCHED | {"channel": f"{'x' * 81}!1"},
        WATCHED | {"channel": b"watch!1"},
        WATCHED | {"channel": "watch!1\n"},
        WATCHED | {"contents": 1},
        WATCHED | {"lease": -1.0},
        WATCHED | {"lease": 61},
        WATCHED | {"lease": float("nan")},
        WATCHED | {"lease": "15"},
    ],
)
def test_what_no_session_could_use_is_not(event: object) -> None:
    assert not is_valid(event)


def test_a_late_claim_is_not_fresh() -> None:
    assert late(CLAIMED) == CLAIMED | {"fresh": False}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
FIELDS = [
    "type",
    "message",
    "size",
    "timeout",
    "last",
    "code",
    "reason",
    "tell",
    "connection",
    "since",
    "fresh",
    "channel",
    "contents",
    "lease",
]


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES | st.sampled_from([SEND, CLOSE, CLAIM, WATCH, SENT["message"]])))
def test_whatever_comes_is_valid_or_not(event: dict[str, Any]) -> None:
    assert is_valid(event) in (True, False)
