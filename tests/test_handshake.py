"""A connection before it is a session: what the backend gets to see, and what never reaches it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from django.test import override_settings

from proxy import callbacks, handshake
from proxy.conf import Options
from proxy.exceptions import ConnectRefused
from proxy.limits import Place
from tests.backend import Answer, Backend


@pytest.fixture
async def options(backend: Backend) -> AsyncIterator[Options]:
    options = Options(connect_callback=f"http://127.0.0.1:{backend.port}/handshake/connect", endpoint="node:1")
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
    accepted = await handshake.authenticate(asked, "uuid-1", Place(), options)
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
