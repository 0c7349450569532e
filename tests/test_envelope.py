"""The messages of a cluster on Redis: what is packed comes back, everything else is refused with a reason."""

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import envelope
from proxy.envelope import BadEnvelope

REQUEST: dict[str, Any] = {"inbox": b"i", "id": 1, "clock": 0, "at": 1.5, "event": b""}
GOOD: dict[str, dict[str, Any]] = {
    envelope.REQUEST: REQUEST,
    envelope.REQUEST_ALL: REQUEST,
    envelope.ANNOUNCE: {"inbox": b"i", "event": b""},
    envelope.GROUP: {"inbox": b"i", "message": {"type": "x"}},
    envelope.REPLIES: {"replies": [[1, "ok"], [2, "not found"]]},
    envelope.CHANNEL: {"channel": "c", "message": {}},
    envelope.PRESENT: {"inbox": b"i", "number": 3, "clock": 0, "at": 1.5, "left": False},
}


@pytest.mark.parametrize("kind", GOOD)
def test_there_and_back(kind: str) -> None:
    found = envelope.unpack(envelope.pack(kind, **GOOD[kind]))
    assert found == {"v": envelope.VERSION, "kind": kind} | GOOD[kind]


@pytest.mark.parametrize("kind", GOOD)
def test_a_field_that_is_missing_or_of_another_type_is_refused(kind: str) -> None:
    for name in GOOD[kind]:
        fields = {key: value for key, value in GOOD[kind].items() if key != name}
        for packed in (envelope.pack(kind, **fields), envelope.pack(kind, **fields, **{name: None})):
            with pytest.raises(BadEnvelope, match=name):
                envelope.unpack(packed)


def test_a_field_that_a_newer_process_adds_is_ignored() -> None:
    newer = GOOD[envelope.PRESENT] | {"region": "eu"}
    assert envelope.unpack(envelope.pack(envelope.PRESENT, **newer))["number"] == 3


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"hello",
        b"\xc1",
        msgpack.packb([1, 2]),
        msgpack.packb({"v": 2, "kind": "present", "number": 1}),
        msgpack.packb({"kind": "present", "number": 1}),
        msgpack.packb({"v": 1, "kind": "order"}),
        msgpack.packb({"v": 1, "kind": ["present"]}),
        msgpack.packb({"v": 1, "kind": "present", "number": 1}) + b"more",
        b"\x91" * 100_000,
        msgpack.packb({1: 2}),
        b"\x83\xa1v\x01\xa4kind\xa7present\xa5inbox" + b"\x91" * 1000 + b"\x90",
        b"\x81\xa1v" + b"\x91" * 1000 + b"\x90",
    ],
)
def test_refused(payload: bytes) -> None:
    with pytest.raises(BadEnvelope, match="expected"):
        envelope.unpack(payload)


@given(st.binary())
def test_whatever_is_on_redis_is_read_or_refused(payload: bytes) -> None:
    for read in (envelope.unpack, envelope.unpack_event):
        try:
            assert isinstance(read(payload), dict)
        except BadEnvelope:
            continue


def test_events() -> None:
    event = {"type": "session.send", "message": {"text": "ü", "bytes": b"\xff"}, "timeout": 0.5}
    assert envelope.unpack_event(envelope.pack_event(event)) == event
    with pytest.raises(BadEnvelope):
        envelope.unpack_event(msgpack.packb("event"))


def test_answers_that_can_be_read_are_read() -> None:
    answers = [[1, "ok"], "x", [2], [3, 4], [5, "closed"], {"a": 1}, [b"6", "ok"]]
    assert list(envelope.replies({"replies": answers})) == [(1, "ok"), (5, "closed")]
