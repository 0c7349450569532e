"""What each server's socket says about an end, and what it can send. Real sockets: the contract tests."""

from functools import partial
from typing import Any

import pytest

from proxy.ends import LOST, SHUTDOWN, End
from proxy.protocol import Frame
from proxy.transports import DaphneTransport, OwnTransport, Transport, read_frame, transport_for


class Protocol:
    """A server's protocol object, by its module's name."""

    async def send(self, message: dict[str, Any]) -> None:
        """ASGI's send."""


class OwnProtocol(Protocol):
    __module__ = "proxy.websocket"

    def write_now(self, message: dict[str, Any]) -> bool:
        """Take it."""
        return True


class DaphneProtocol(Protocol):
    __module__ = "daphne.ws_protocol"


def test_transport_for() -> None:
    assert type(transport_for(OwnProtocol().send)) is OwnTransport
    assert type(transport_for(partial(Protocol().send, DaphneProtocol()))) is DaphneTransport  # type: ignore[arg-type]
    assert type(transport_for(Protocol().send)) is Transport
    assert type(transport_for(lambda message: None)) is Transport


def test_only_our_own_server_writes_at_once() -> None:
    message = {"type": "websocket.send", "text": "a"}
    assert OwnTransport(OwnProtocol().send).write_now(message)
    assert not Transport(Protocol().send).write_now(message)


def test_our_own_server_says_itself_how_it_ended() -> None:
    message = {"type": "websocket.disconnect", "code": 1012, "end": SHUTDOWN}
    assert OwnTransport(OwnProtocol().send).disconnect(message) is SHUTDOWN


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


@pytest.mark.parametrize(
    ("message", "frame"),
    [
        ({"text": "é"}, Frame("é", 2)),
        ({"text": "", "bytes": None}, Frame("", 0)),
        ({"bytes": b"\xff", "text": None}, Frame(b"\xff", 1)),
    ],
)
def test_frames_of_messages(message: dict[str, Any], frame: Frame) -> None:
    assert read_frame(message) == frame


@pytest.mark.parametrize(("code", "sent"), [(1000, 1000), (4001, 4001), (1013, 4013), (1011, 4011), (1012, 4012)])
async def test_close_codes_that_daphne_can_send(code: int, sent: int) -> None:
    send: Any = partial(Protocol().send, {})
    message = DaphneTransport(send).close_message(code, "why")
    assert message == {"type": "websocket.close", "code": sent}
    assert Transport(None).close_message(code, "why")["code"] == code
