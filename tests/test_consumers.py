"""A consumer under Channels' own WebsocketCommunicator, with a real backend. Over real servers: the contract tests."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from channels.testing import WebsocketCommunicator
from django.test import override_settings

from proxy import callbacks, delivery
from proxy.conf import Options
from proxy.consumers import SessionConsumer
from proxy.protocol import Failure, Frame
from proxy.stats import stats
from proxy.values import OriginPolicy
from tests.backend import Answer, Backend


@pytest.fixture
async def options(backend: Backend) -> AsyncIterator[Options]:
    base = f"http://127.0.0.1:{backend.port}/consumer"
    options = Options(
        connect_callback=f"{base}/connect",
        establish_callback=f"{base}/establish",
        receive_callback=f"{base}/receive",
        close_callback=f"{base}/close",
        callback_timeout=1.0,
    )
    await callbacks.shut_down()  # the client of the loop holds the options it was made with
    with override_settings(KUIPERBELT=options):
        yield options
    await callbacks.shut_down()


def client(key: str, *headers: tuple[bytes, bytes]) -> WebsocketCommunicator:
    return WebsocketCommunicator(SessionConsumer.as_asgi(), f"/connect?key={key}", headers=list(headers))


def accept(backend: Backend, key: str, **answer: Any) -> None:
    backend.on("/consumer/connect", key, Answer(headers=[("X-Kuiperbelt-Session", key)], **answer))


async def failures(key: str) -> list[Failure]:
    return list((await delivery.send([key], Frame("x", 1))).failures)


async def test_a_whole_life(backend: Backend, options: Options, key: str) -> None:
    accept(backend, key, body=b"hello")
    before = stats.connections
    socket = client(key)
    assert await socket.connect() == (True, None)
    assert await socket.receive_from() == "hello"
    assert stats.connections == before + 1
    assert not await failures(key)
    assert await socket.receive_from() == "x"
    await socket.send_to("from the client")
    (request,) = await backend.wait("/consumer/receive", key)
    assert request.body == b"from the client"
    await socket.disconnect(1000)
    (closed,) = await backend.wait("/consumer/close", key)
    assert closed.one("x-kuiperbelt-close-reason") == "client"
    assert [failure.error for failure in await failures(key)] == ["kuiperbelt: session is not found"]
    assert stats.connections == before


async def test_pushes_from_inside_the_establish_callback_come_first(
    backend: Backend, options: Options, key: str
) -> None:
    async def establish(request: Any) -> Answer:
        assert not (await delivery.send([key], Frame("early", 5))).failures
        return Answer()

    accept(backend, key, body=b"first frame")
    backend.on("/consumer/establish", key, establish)
    socket = client(key)
    await socket.connect()
    assert [await socket.receive_from(), await socket.receive_from()] == ["early", "first frame"]
    await socket.disconnect()


async def test_a_failed_establish_closes_with_1011(backend: Backend, options: Options, key: str) -> None:
    accept(backend, key, body=b"never sent")
    backend.on("/consumer/establish", key, Answer(status=500))
    socket = client(key)
    await socket.connect()
    assert await socket.receive_output() == {"type": "websocket.close", "code": 1011, "reason": "handshake"}
    await socket.disconnect()
    (closed,) = await backend.wait("/consumer/close", key)
    assert closed.one("x-kuiperbelt-close-reason") == "handshake"


async def test_close_by_the_backend_has_no_callback(backend: Backend, options: Options, key: str) -> None:
    accept(backend, key)
    socket = client(key)
    await socket.connect()
    await delivery.close([key], Frame(b"bye", 3), 4000, "done")
    assert await socket.receive_from() == b"bye"
    assert await socket.receive_output() == {"type": "websocket.close", "code": 4000, "reason": "done"}
    await socket.disconnect()
    assert not backend.seen("/consumer/close", key)


async def test_the_newest_connection_owns_the_key(backend: Backend, options: Options, key: str) -> None:
    accept(backend, key)
    old, new = client(key), client(key)
    await old.connect()
    await new.connect()
    assert await old.receive_output() == {"type": "websocket.close", "code": 4001, "reason": "replaced"}
    await old.disconnect()
    await backend.wait("/consumer/close", key)
    assert not await failures(key)
    assert await new.receive_from() == "x"
    await new.disconnect()


async def test_refused_without_denial_responses_is_a_bare_close(backend: Backend, options: Options, key: str) -> None:
    errors = stats.connect_errors
    backend.on("/consumer/connect", key, Answer(status=401))
    assert (await client(key).connect())[0] is False
    assert stats.connect_errors == errors + 1


async def test_a_bad_origin_never_reaches_the_backend(backend: Backend, options: Options, key: str) -> None:
    errors = stats.connect_errors
    with override_settings(KUIPERBELT=replace(options, origin_policy=OriginPolicy("same_origin"))):
        socket = client(key, (b"host", b"a.example"), (b"origin", b"https://b.example"))
        assert (await socket.connect())[0] is False
    assert not backend.seen("/consumer/connect", key)
    assert stats.connect_errors == errors  # a 403 isn't an error


async def test_an_error_in_a_handler_ends_this_connection_only(
    backend: Backend, options: Options, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    accept(backend, key)
    socket = client(key)
    await socket.connect()
    await socket.send_input({"type": "websocket.receive"})  # neither text nor bytes: no server sends that
    assert (await socket.receive_output())["code"] == 1011
    (closed,) = await backend.wait("/consumer/close", key)
    assert closed.one("x-kuiperbelt-close-reason") == "error"
    (record,) = [record for record in caplog.records if record.exc_info]
    assert str(closed.one("x-kuiperbelt-connection")) in record.getMessage()
    assert await failures(key)


async def test_cancelled_by_the_server(backend: Backend, options: Options, key: str) -> None:
    accept(backend, key)
    socket = client(key)
    await socket.connect()
    socket.future.cancel()
    assert (await socket.receive_output())["code"] == 1012
    (closed,) = await backend.wait("/consumer/close", key)
    assert closed.one("x-kuiperbelt-close-reason") == "shutdown"
    await asyncio.sleep(0)


async def test_oversized_messages_are_1009_where_the_server_lets_them_pass(
    backend: Backend, options: Options, key: str
) -> None:
    accept(backend, key)
    socket = client(key)
    await socket.connect()
    await socket.send_to("é" * 40000)
    assert (await socket.receive_output())["code"] == 1009
    await socket.disconnect()
    assert not backend.seen("/consumer/receive", key)
