"""What each server's socket says about an end, and what it can send. Real sockets: the contract tests."""

from functools import partial
from typing import Any

import pytest

from proxy.transports import LOST, SHUTDOWN, DaphneTransport, End, Transport, UvicornTransport, transport_for


class Protocol:
    """A server's protocol object, by its module's name."""

    writable = None

    async def send(self, message: dict[str, Any]) -> None:
        """ASGI's send."""


class UvicornProtocol(Protocol):
    __module__ = "uvicorn.protocols.websockets.websockets_sansio_impl"


class HypercornProtocol(Protocol):
    __module__ = "hypercorn.protocol"


def test_transport_for() -> None:
    assert type(transport_for(UvicornProtocol().send)) is UvicornTransport
    assert type(transport_for(HypercornProtocol().send)) is Transport
    assert type(transport_for(lambda message: None)) is Transport


@pytest.mark.parametrize(
    ("message", "end"),
    [
        ({"code": 1000, "reason": ""}, End(1000, "client")),
        ({"code": 1005, "reason": ""}, End(1005, "client")),
        ({"code": 1012, "reason": ""}, End(1012, "client")),
        ({"code": 1009, "reason": "too big"}, End(1009, "error")),
        ({"code": 1005}, LOST),
        ({"code": 1006}, LOST),
        ({"code": 1012}, SHUTDOWN),
    ],
)
def test_how_uvicorn_says_that_it_is_over(message: dict[str, Any], end: End) -> None:
    assert UvicornTransport(UvicornProtocol().send).disconnect(message) == end


@pytest.mark.parametrize(
    ("message", "end"),
    [
        ({"code": 1000}, End(1000, "client")),
        ({"code": 1007}, End(1007, "error")),
        ({"code": 1006}, LOST),
        ({"code": None}, End(1005, "client")),
        ({}, End(1005, "client")),
    ],
)
def test_how_others_say_that_it_is_over(message: dict[str, Any], end: End) -> None:
    assert Transport(None).disconnect(message) == end


@pytest.mark.parametrize(("code", "sent"), [(1000, 1000), (4001, 4001), (1013, 4013), (1011, 4011), (1012, 4012)])
async def test_close_codes_that_daphne_can_send(code: int, sent: int) -> None:
    send: Any = partial(Protocol().send, {})
    message = DaphneTransport(send).close_message(code, "why")
    assert message == {"type": "websocket.close", "code": sent}
    assert Transport(None).close_message(code, "why")["code"] == code
