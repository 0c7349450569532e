"""Taps on real consumers, under Channels' communicator: put on by events, or in the handshake; and taken off again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from channels.testing import WebsocketCommunicator

from proxy import delivery, tapped, taps
from proxy.consumers import SessionConsumer
from proxy.events import watch_event
from proxy.exceptions import SessionNotFound
from proxy.outbound import Outbound
from proxy.protocol import Frame
from proxy.tapped import TappedOutbound
from proxy.tickets import COOKIE, Ticket, sign
from tests.backend import Answer, Backend, welcome
from tests.test_consumers import accept
from tests.test_consumers import options as options
from tests.test_taps import told

pytestmark = pytest.mark.usefixtures("options")


async def a_channel() -> str:
    return await delivery.layer().new_channel("watch")


def connected(consumer: SessionConsumer, key: str) -> WebsocketCommunicator:
    return WebsocketCommunicator(consumer, f"/connect?key={key}&secret=1")


def ask(key: str, channel: str, contents: bool = False, lease: float = 60.0) -> None:
    """As a watcher of this process does."""
    assert delivery.layer().request(delivery.group_name(key), watch_event(channel, contents, lease)) is None


async def test_nothing_is_left_of_a_tap(backend: Backend, key: str) -> None:
    """While it is on, frames go their way as before."""
    accept(backend, key)
    consumer, channel = SessionConsumer(), await a_channel()
    with pytest.raises(SessionNotFound):
        ask(key, channel)
    socket = connected(consumer, key)
    await socket.connect()
    before = consumer.outbound
    assert (type(before), consumer.tap, taps.live) == (Outbound, None, {})
    ask(key, channel, contents=True)
    ask(key, channel, contents=True)
    assert isinstance(consumer.outbound, TappedOutbound)
    for number in range(10):
        assert not (await delivery.send([key], Frame(str(number), 1))).failures
    assert [await socket.receive_from() for _ in range(10)] == [str(number) for number in range(10)]
    batch = await told(channel)
    assert [report["what"] for report in batch] == ["session", *["sent"] * 10]
    assert "secret" not in str(batch)
    assert all("content" not in report for report in batch)  # EKBO_WATCH_CONTENTS is off
    ask(key, channel, lease=0)
    assert consumer.outbound is before
    assert (consumer.tap, taps.live) == (None, {})
    ask(key, channel, lease=0)
    assert consumer.tap is None
    await socket.disconnect()


async def test_a_lease_that_ends(backend: Backend, key: str) -> None:
    accept(backend, key)
    consumer = SessionConsumer()
    socket = connected(consumer, key)
    await socket.connect()
    ask(key, await a_channel(), lease=0.1)
    assert consumer.tap
    await asyncio.sleep(0.2)
    assert type(consumer.outbound) is Outbound
    assert consumer.tap is None
    assert not taps.live
    await socket.disconnect()


def watched_handshake(key: str, channel: str) -> tuple[SessionConsumer, WebsocketCommunicator]:
    """A client that brings a ticket of the admin's console with it."""
    consumer = SessionConsumer()
    cookie = f"a=b; {COOKIE}={sign(Ticket(channel, 'localhost:9180'))}"
    headers = [(b"cookie", cookie.encode()), (b"origin", b"http://localhost:9180")]
    return consumer, WebsocketCommunicator(consumer, f"/connect?key={key}", headers)


async def test_a_handshake_from_its_start(backend: Backend, key: str) -> None:
    """Contents too, though EKBO_WATCH_CONTENTS is off: it is the page's own. The backend sees no ticket."""
    backend.on("/consumer/connect", key, welcome(key, b"hello"))
    channel = await a_channel()
    consumer, socket = watched_handshake(key, channel)
    assert (await socket.connect())[0]
    assert await socket.receive_from() == "hello"
    (asked,) = backend.seen("/consumer/connect", key)
    assert asked.all("Cookie") == ["a=b"]
    batch = await told(channel)
    while batch[-1]["what"] != "sent":
        batch += await told(channel)
    kinds = [(report["what"], report.get("kind"), report.get("status")) for report in batch]
    assert kinds == [
        ("callback", "connect", 200), ("session", None, None), ("callback", "establish", 200), ("sent", None, None),
    ]  # fmt: skip
    assert batch[0]["content"] == batch[3]["content"] == "hello"
    assert batch[1]["key"] == key
    await socket.disconnect()
    batch = await told(channel)
    assert (batch[0]["what"], batch[0]["reason"]) == ("closed", "client")
    assert consumer.tap
    ended = consumer.tap
    ended.renew(channel, False, 0)
    assert taps.live == {}


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (Answer(status=401, body=b"who?"), 401, "the backend answered 401"),
        (Answer(), 502, "connect: expected one session key in X-Kuiperbelt-Session, found 0 of them"),
    ],
)
async def test_a_handshake_that_is_refused(backend: Backend, key: str, answer: Answer, status: int, words: str) -> None:
    backend.on("/consumer/connect", key, answer)
    channel = await a_channel()
    consumer, socket = watched_handshake(key, channel)
    assert not (await socket.connect())[0]
    callback, refused = await told(channel)
    assert (callback["kind"], callback["status"]) == ("connect", answer.status)
    assert (refused["what"], refused["status"], refused["reason"]) == ("refused", status, words)
    assert consumer.tap
    consumer.tap.renew(channel, False, 0)
    assert consumer.tap is None
    assert not taps.live


async def test_no_more_connections_than_allowed(backend: Backend, monkeypatch: pytest.MonkeyPatch, fresh: Any) -> None:
    monkeypatch.setattr(tapped, "MAX_TAPS", 1)
    sockets = []
    names = [fresh("t"), fresh("t")]
    channels = [await a_channel() for _ in names]
    for key, channel in zip(names, channels, strict=True):
        accept(backend, key)
        sockets.append(connected(SessionConsumer(), key))
        await sockets[-1].connect()
        ask(key, channel)
    (busy,) = await told(channels[1])
    assert (busy["what"], busy["reason"]) == ("busy", "1 others are watched in its process")
    ask(names[0], channels[0], lease=0)
    for socket in sockets:
        await socket.disconnect()
