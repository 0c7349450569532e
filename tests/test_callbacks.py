"""Requests to the backend, against a real one that also misbehaves (contract: GET connect 3, Callbacks)."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from proxy import callbacks
from proxy.callbacks import Callbacks, Session
from proxy.conf import Options
from proxy.exceptions import CallbackError, ConnectRefused
from proxy.protocol import Frame
from tests.backend import Answer, Backend

CONNECTION = "0d9d4f2e-5a38-4b0e-8f0a-6f3a8f1e9a11"

Make = Callable[..., Callbacks]


@pytest.fixture
async def make(backend: Backend) -> AsyncIterator[Make]:
    made: list[Callbacks] = []

    def make(**options: Any) -> Callbacks:
        base = f"http://127.0.0.1:{backend.port}"
        configured = Options(
            connect_callback=f"{base}/unit/connect?who=me",
            establish_callback=f"{base}/unit/establish",
            receive_callback=f"{base}/unit/receive",
            close_callback=f"{base}/unit/close",
            callback_timeout=0.5,
        )
        made.append(Callbacks(replace(configured, **options)))
        return made[-1]

    yield make
    for one in made:
        await one.shut_down()


def session(key: str) -> Session:
    return Session(key, CONNECTION, "node:1")


def accept(key: str, **answer: Any) -> Answer:
    headers = [("X-Kuiperbelt-Session", key), *answer.pop("headers", ())]
    return Answer(headers=headers, **answer)


async def test_connect_sends_headers_and_merged_query(backend: Backend, make: Make, key: str) -> None:
    backend.on("/unit/connect", key, accept(key, body=b"hello"))
    accepted = await make().connect([("cookie", "a"), ("cookie", "b")], f"key={key}&who=you".encode(), [])
    assert (accepted.key, accepted.first_frame, accepted.subprotocol) == (key, Frame("hello", 5), None)
    request = backend.seen("/unit/connect", key)[0]
    assert request.query == f"who=me&key={key}"
    assert request.all("cookie") == ["a", "b"]
    assert request.one("accept-encoding") == "identity"
    assert not request.names & {"accept", "user-agent", "content-type"}


async def test_connect_binary_frame_and_subprotocol(backend: Backend, make: Make, key: str) -> None:
    headers = [("Content-Type", "application/octet-stream"), ("Sec-WebSocket-Protocol", "v2")]
    backend.on("/unit/connect", key, accept(key, headers=headers, body=b"\xff"))
    accepted = await make().connect([], f"key={key}".encode(), ["v1", "v2"])
    assert (accepted.first_frame, accepted.subprotocol) == (Frame(b"\xff", 1), "v2")


async def test_a_refusal_carries_what_the_client_may_see(backend: Backend, make: Make, key: str) -> None:
    headers = [("Content-Type", "text/x"), ("Retry-After", "5"), ("Set-Cookie", "a=b"), ("X-Other", "1")]
    backend.on("/unit/connect", key, Answer(status=429, headers=headers, body=b"wait"))
    with pytest.raises(ConnectRefused) as refusal:
        await make().connect([], f"key={key}".encode(), [])
    assert (refusal.value.status, refusal.value.body) == (429, b"wait")
    assert sorted(refusal.value.headers) == [(b"content-type", b"text/x"), (b"retry-after", b"5")]


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (Answer(status=302, headers=[("Location", "/elsewhere")]), "found status 302"),
        (Answer(), "found 0 of them"),
        (Answer(headers=[("X-Kuiperbelt-Session", "a"), ("X-Kuiperbelt-Session", "b")]), "found 2 of them"),
        (Answer(headers=[("X-Kuiperbelt-Session", "a b")]), "found a malformed one"),
        (Answer(headers=[("X-Kuiperbelt-Session", "x" * 257)]), "found a malformed one"),
        (accept("k", headers=[("Sec-WebSocket-Protocol", "v9")]), "subprotocol that the client offered, found 'v9'"),
        (accept("k", headers=[("Content-Encoding", "gzip")], body=b"x"), "found Content-Encoding gzip"),
        (accept("k", body=b"\xff"), "expected UTF-8"),
        (accept("k", body=b"x" * 65537), "at most 65536 bytes"),
        (accept("k", endless=True), "at most 65536 bytes"),
        (accept("k", delay=2.0), "expected an answer within 0.5s"),
        (accept("k", body=b"12345678", drip=0.2), "expected an answer within 0.5s"),
        (Answer(raw=b"nonsense\r\n\r\n"), "found: Expected HTTP/"),
        (accept("k", body=b"cut off", reset=True), "Connection reset by peer, in the middle"),
    ],
)
async def test_answers_that_are_a_502(backend: Backend, make: Make, key: str, answer: Answer, found: str) -> None:
    backend.on("/unit/connect", key, answer)
    with pytest.raises(CallbackError, match=found):
        await make().connect([], f"key={key}".encode(), ["v1"])


async def test_no_time_out(backend: Backend, make: Make, key: str) -> None:
    backend.on("/unit/connect", key, accept(key, delay=0.7))
    assert (await make(callback_timeout=0.0).connect([], f"key={key}".encode(), [])).key == key


@pytest.mark.parametrize("raw", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"])
async def test_what_is_logged_names_no_query(backend: Backend, make: Make, key: str, raw: bytes) -> None:
    backend.on("/unit/connect", key, Answer(raw=raw))
    with pytest.raises(CallbackError) as error:
        await make().connect([], f"key={key}&token=secret".encode(), [])
    assert "secret" not in str(error.value)


async def test_nobody_listens(make: Make) -> None:
    with pytest.raises(CallbackError, match="found: Connection refused"):
        await make(connect_callback="http://127.0.0.1:9/").connect([], b"", [])


async def test_close_names_the_end_and_the_event(backend: Backend, make: Make, key: str) -> None:
    await make(proxy_set_header=(("X-Foo", "foo"), ("X-Kuiperbelt-Connection", ""))).close(
        session(key), 4001, "replaced"
    )
    (request,) = backend.seen("/unit/close", key)
    assert (request.method, request.body, request.one("content-length")) == ("POST", b"", "0")
    assert request.one("x-kuiperbelt-session") == key
    assert request.one("x-kuiperbelt-endpoint") == "node:1"
    assert request.one("x-kuiperbelt-close-code") == "4001"
    assert request.one("x-kuiperbelt-close-reason") == "replaced"
    assert len(request.one("x-kuiperbelt-event-id") or "") == 36
    assert request.one("x-foo") == "foo"
    assert "x-kuiperbelt-connection" not in request.names


@pytest.mark.parametrize(("reply", "expected"), [(True, Frame("pong", 4)), (False, None)])
async def test_receive(backend: Backend, make: Make, key: str, reply: bool, expected: Frame | None) -> None:
    backend.on("/unit/receive", key, Answer(body=b"pong"))
    assert await make(receive_reply=reply).receive(session(key), Frame(b"\x00\xff", 2)) == expected
    (request,) = backend.seen("/unit/receive", key)
    assert (request.body, request.one("content-type")) == (b"\x00\xff", "application/octet-stream")


async def test_a_kept_alive_connection_that_closes_is_tried_once_more(backend: Backend, make: Make, key: str) -> None:
    client = make()
    backend.on("/unit/establish", key, Answer())
    await client.establish(session(key))
    backend.on("/unit/establish", key, lambda request: Answer(hang_up=request.nth > 1))
    await client.establish(session(key))
    first, second, third = backend.seen("/unit/establish", key)
    assert (first.nth, second.nth, third.nth) == (1, 2, 1)
    assert (
        second.one("x-kuiperbelt-event-id") == third.one("x-kuiperbelt-event-id") != first.one("x-kuiperbelt-event-id")
    )


async def test_not_200_is_an_error(backend: Backend, make: Make, key: str) -> None:
    backend.on("/unit/establish", key, Answer(status=201))
    with pytest.raises(CallbackError, match="expected status 200, found 201"):
        await make().establish(session(key))


async def test_callbacks_that_are_off_do_nothing(make: Make, key: str) -> None:
    client = make(establish_callback="", close_callback="")
    assert (client.wants("establish"), client.wants("receive")) == (False, True)
    await client.establish(session(key))
    await client.close(session(key), 1000, "client")


async def test_one_client_for_each_event_loop() -> None:
    assert callbacks.client() is callbacks.client()
    await callbacks.shut_down()
    await callbacks.shut_down()
