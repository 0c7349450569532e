"""Reports as lines: each kind, and that nothing in them can move a cursor."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.report_lines import in_line

AT = {"at": "2026-11-27T12:00:01.104Z", "connection": "0190-7f3a"}


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"what": "sent", "type": "text", "size": 5, "content": "hello"}, "7f3a  -> text 5 bytes  hello"),
        ({"what": "received", "type": "binary", "size": 1}, "7f3a  <- binary 1 byte"),
        ({"what": "sent", "type": "text", "size": 9, "content": "a\nb", "cut": True}, "7f3a  -> text 9 bytes  a\\nb…"),
        (
            {"what": "callback", "kind": "receive", "status": 200, "error": None, "ms": 8.3, "asked": 5, "answered": 2},
            "7f3a  receive callback 200, 8.3 ms, 2 bytes",
        ),
        (
            {"what": "callback", "kind": "close", "status": None, "error": "close: none", "ms": 3.0, "asked": 0},
            "7f3a  close callback failed: close: none, 3.0 ms",
        ),
        (
            {"what": "session", "key": "bob", "node": "w", "remote": "unix", "path": "/c", "since": "then"},
            "7f3a  session bob at w, from unix, /c, since then",
        ),
        ({"what": "closed", "code": 1000, "reason": "client", "ms": 5060.0}, "7f3a  closed, 1000 client, after 5.1 s"),
        ({"what": "refused", "status": 401, "reason": "no"}, "7f3a  refused with 401: no"),
        ({"what": "missed", "count": 3}, "7f3a  3 reports missed"),
        ({"what": "missed", "count": None}, "7f3a  some reports missed"),
        ({"what": "absent", "connection": ""}, "      not connected"),
        ({"what": "lost", "connection": "", "reason": "Redis"}, "      lost: Redis"),
        ({"what": "regained", "connection": ""}, "      watching again"),
        ({"what": "busy", "reason": "5 others"}, "7f3a  busy: 5 others"),
    ],
)
def test_lines(report: dict[str, object], expected: str) -> None:
    line = in_line(AT | report)
    assert re.match(r"\d\d:\d\d:01\.104  ", line)
    assert line[14:] == expected


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(st.dictionaries(st.sampled_from(["at", "connection", "kind", "size", "content", "key", "ms"]), VALUES))
@example({"ms": "soon"})
@example({"at": "0001-01-01T00:00:00+14:00"})
def test_whatever_a_node_says(report: dict[str, object]) -> None:
    for what in ("sent", "callback", "session", "closed", "new"):
        assert in_line(report | {"what": what}).isprintable()
