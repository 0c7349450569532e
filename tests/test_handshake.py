"""A connection before it is a session: what the backend gets to see, and what never reaches it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from django.test import override_settings

from proxy import callbacks, consumers, handshake, registry
from proxy.conf import Options
from proxy.drain import drain
from proxy.exceptions import ClusterUnreachable, ConnectRefused, SessionTaken
from proxy.layers import LocalChannelLayer
from proxy.limits import Place, connections
from proxy.outbound import Outbound
from proxy.ownership import Membership
from proxy.routing import websocket_application
from proxy.stats import Stats, stats
from proxy.transports import ConnectionGone, Transport
from proxy.values import OriginPolicy
from tests.backend import Answer, Backend


@pytest.fixture
async def options(backend: Backend) -> AsyncIterator[Options]:
    asked = f"http://127.0.0.1:{backend.port}/handshake/connect"
    options = Options(connect_callback=asked, endpoint="node:1", registry=False)
    await callbacks.shut_down()  # the client of the loop holds the options it was made with
    with override_settings(KUIPERBELT=options):
        yield options
    await callbacks.shut_down()


def scope(key: str, *headers: tuple[bytes, bytes], **more: Any) -> dict[str, Any]:
    return {
        "type": "websocket",
        "headers": [(b"host", b"front.example"), *headers],
        "query_string": f"key={key}".encode(),
        "client": ("192.0.2.7", 5),
        "scheme": "wss",
        **more,
    }


async def test_what_the_backend_sees(backend: Backend, options: Options, key: str) -> None:
    headers = [("X-Kuiperbelt-Session", key), ("Sec-WebSocket-Protocol", "v2")]
    backend.on("/handshake/connect", key, Answer(headers=headers))
    asked = scope(key, (b"cookie", b"a=1"), (b"x-kuiperbelt-endpoint", b"evil"), subprotocols=["v1", "v2"])
    with Place() as place:
        accepted = await handshake.authenticate(asked, "uuid-1", place, options)
    assert (accepted.key, accepted.subprotocol) == (key, "v2")
    (request,) = backend.seen("/handshake/connect", key)
    assert request.one("cookie") == "a=1"
    assert request.one("x-kuiperbelt-endpoint") == "node:1"
    assert request.one("x-kuiperbelt-connection") == "uuid-1"
    assert request.one("x-kuiperbelt-subprotocols") == "v1, v2"
    assert request.one("x-forwarded-for") == "192.0.2.7"
    assert request.one("x-forwarded-proto") == "https"
    assert request.one("x-forwarded-host") == "front.example"


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-%d" % number, b"v") for number in range(handshake.MAX_HEADERS)],
        [(b"x", b"v" * handshake.MAX_HEADER_BYTES)],
    ],
    ids=["too many", "too long"],
)
async def test_headers_that_a_backend_would_refuse(
    headers: list[tuple[bytes, bytes]], backend: Backend, options: Options, key: str
) -> None:
    with pytest.raises(ConnectRefused) as refusal:
        await handshake.authenticate(scope(key, *headers), "uuid-1", Place(), options)
    assert refusal.value.status == 431
    assert not backend.seen("/handshake/connect", key)


@pytest.mark.parametrize(
    ("extensions", "expected"),
    [
        ({}, [{"type": "websocket.close"}]),
        (
            {"websocket.http.response": {}},
            [
                {
                    "type": "websocket.http.response.start",
                    "status": 418,
                    "headers": [(b"content-type", b"text/plain; charset=utf-8")],
                },
                {"type": "websocket.http.response.body", "body": b"tea\n"},
            ],
        ),
    ],
)
async def test_refusals(extensions: dict[str, Any], expected: list[dict[str, Any]]) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await handshake.refuse({"headers": [], "extensions": extensions}, send, ConnectRefused.plain(418, "tea"))
    assert sent == expected


async def test_a_client_that_did_not_wait_is_no_error() -> None:
    async def send(message: Any) -> None:
        raise ConnectionResetError

    await handshake.refuse({"headers": []}, send, ConnectRefused.plain(403, "no"))


# What becomes of handshakes: each counts once, as one thing


def results() -> dict[str, int]:
    """How many handshakes came to what."""
    return {values[0]: stats.slot[place] for values, place in Stats.connects.places.items()}


async def shake_hands(
    asked: dict[str, Any], on_accept: Callable[[], None] = lambda: None
) -> tuple[dict[str, int], list[str]]:
    """One handshake from its beginning to the end of the connection: what it was counted as, what was sent."""
    sent: list[str] = []
    before, tried = results(), stats.total_connections
    messages = [{"type": "websocket.disconnect", "code": 1000}, {"type": "websocket.connect"}]

    async def receive() -> Any:
        return messages.pop()

    async def send(message: Any) -> None:
        if message["type"] == "websocket.accept":
            on_accept()
        sent.append(message["type"])

    shaking = asyncio.create_task(websocket_application(asked, receive, send))
    await asyncio.wait({shaking}, timeout=5)
    assert shaking.done()
    assert shaking.cancelled() or not shaking.exception()
    assert stats.total_connections == tried + 1
    return {result: count - before[result] for result, count in results().items() if count != before[result]}, sent


@pytest.mark.parametrize(
    ("result", "answer", "changed"),
    [
        ("open", Answer(headers=[("X-Kuiperbelt-Session", "s")]), {}),
        ("backend_refused", Answer(status=401), {}),
        ("backend_failed", Answer(), {}),
        ("backend_busy", Answer(hang_up=True), {"breaker_failures": 1}),
        ("origin", Answer(), {"origin_policy": OriginPolicy("same_origin")}),
        ("max_connections", Answer(), {"max_connections": 1}),
        ("max_connections_per_address", Answer(), {"max_connections_per_address": 1}),
        ("connect_rate", Answer(), {"connect_rate": 1}),
    ],
)
async def test_what_becomes_of_it(
    result: str, answer: Answer, changed: dict[str, Any], backend: Backend, options: Options, key: str
) -> None:
    backend.on("/handshake/connect", key, answer)
    asked = scope(key, (b"origin", b"https://evil.example"), path="/connect")
    await callbacks.shut_down()
    with override_settings(KUIPERBELT=replace(options, **changed)), Place() as place:
        if changed:  # as much as may be
            place.take("192.0.2.7", replace(options, **changed))
        if result == "backend_busy":
            assert (await shake_hands(asked))[0] == {"backend_failed": 1}
        assert (await shake_hands(asked))[0] == {result: 1}


async def test_what_becomes_of_bad_ones(options: Options, key: str) -> None:
    refused = ["websocket.close"]
    assert await shake_hands(scope(key, path="/other")) == ({"not_found": 1}, refused)
    many = [(b"x", b"v")] * handshake.MAX_HEADERS
    assert await shake_hands(scope(key, *many, path="/connect")) == ({"bad_request": 1}, refused)


BUG, CANCELLED = RuntimeError("a bug that a test put in"), asyncio.CancelledError()
ACCEPT = "the server's send of the 101"
JOIN = (Membership, "join")
BEFORE: list[Any] = [
    ACCEPT,
    JOIN,
    (callbacks.Callbacks, "connect"),
    (consumers, "Outbound"),
    (registry, "enter"),
    (registry.Entry, "opened"),
]
AFTER: list[Any] = [(Outbound, "open"), (callbacks.Callbacks, "establish")]


@pytest.mark.parametrize(
    ("place", "fault", "result"),
    [
        *((place, BUG, "error") for place in BEFORE),
        *((place, CANCELLED, "draining") for place in BEFORE),
        *((place, CANCELLED, "client_gone") for place in BEFORE),
        *((place, fault, "open") for place in AFTER for fault in (BUG, CANCELLED)),
        (ACCEPT, ConnectionGone(), "client_gone"),
        (JOIN, SessionTaken(), "session_taken"),
        (JOIN, ClusterUnreachable(), "cluster_unreachable"),
        ((LocalChannelLayer, "is_unreachable"), True, "cluster_unreachable"),
        ((Transport, "is_gone"), True, "client_gone"),
        ((drain, "begun"), True, "draining"),
    ],
)
async def test_what_becomes_of_it_in_trouble(
    place: Any,
    fault: Any,
    result: str,
    backend: Backend,
    options: Options,
    key: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Servers cancel what goes on at their end; daphne also what goes on long after the client has gone."""

    def strike(*_: Any) -> Any:
        if isinstance(fault, BaseException):
            raise fault
        return fault

    backend.on("/handshake/connect", key, Answer(headers=[("X-Kuiperbelt-Session", key)]))
    monkeypatch.setattr(Transport, "is_shutting_down", lambda _: result != "client_gone")
    if place != ACCEPT:
        owner, name = place
        monkeypatch.setattr(owner, name, fault if owner is drain else strike)
    asked = scope(key, path="/connect")
    counted, sent = await (shake_hands(asked, strike) if place == ACCEPT else shake_hands(asked))
    assert counted == {result: 1}
    assert sent == ["websocket.close"] or result in ("open", "client_gone") or fault is CANCELLED
    assert stats.connections == connections.total == 0
