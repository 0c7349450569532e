"""Back-pressure of one client: written at once, queued, waiting, timed out, given up (contract: Back-pressure)."""

import asyncio
from dataclasses import replace

import pytest

from proxy.conf import Options
from proxy.exceptions import SendTimeout, SessionClosed
from proxy.outbound import Outbound
from proxy.protocol import Message
from proxy.stats import stats
from tests.sockets import Socket

CLOSE = {"type": "websocket.close", "code": 1000}
SLOW = {"type": "websocket.close", "code": 1013}


def text(payload: str) -> Message:
    return {"type": "websocket.send", "text": payload}


class Client:
    """An Outbound over a Socket, and how often it was called slow."""

    def __init__(self, queue: int = 0, blocked: float = 5.0, backlog: int = 100, opened: bool = True) -> None:
        self.socket = Socket()
        self.slow = 0
        options = replace(Options(), send_queue_size=queue, blocked_timeout=blocked, max_backlog_size=backlog)
        self.outbound = Outbound(self.socket.transport, options, self.on_slow)
        if opened:
            self.outbound.open()

    def on_slow(self) -> None:
        self.slow += 1
        self.outbound.drop(SLOW)

    def push(self, payload: str, timeout: float = 0.0) -> "asyncio.Future[None] | None":
        return self.outbound.push(text(payload), len(payload), timeout)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_free_socket_is_written_in_the_callers_turn() -> None:
    client = Client()
    assert client.push("a") is None
    assert client.push("b") is None
    assert client.socket.payloads == ["a", "b"]


async def test_a_blocked_socket_is_written_in_order_once_it_is_free() -> None:
    client = Client(queue=2)
    client.socket.block()
    assert [client.push(payload) for payload in "abc"] == [None, None, None]  # in hand, and two queued
    waiting = client.push("d")
    assert waiting is not None
    await settle()
    assert client.socket.payloads == []
    assert not waiting.done()
    client.socket.free()
    await waiting
    await settle()
    assert client.push("e") is None
    assert client.socket.payloads == ["a", "b", "c", "d", "e"]


async def test_without_a_queue_senders_wait_in_line() -> None:
    client = Client()
    client.socket.block()
    assert client.push("a") is None
    waiting = [client.push("b"), client.push("c")]
    client.socket.free()
    await asyncio.gather(*filter(None, waiting))
    await settle()
    assert client.socket.payloads == ["a", "b", "c"]


async def test_send_timeout_while_the_queue_is_full() -> None:
    client = Client(queue=1)
    client.socket.block()
    client.push("a")
    client.push("b")
    waiting = client.push("c", timeout=0.05)
    assert waiting
    with pytest.raises(SendTimeout, match="context deadline exceeded"):
        await waiting
    client.socket.free()
    await settle()
    assert client.socket.payloads == ["a", "b"]  # what timed out is never written


async def test_a_cancelled_sender_leaves_nothing_behind() -> None:
    client = Client()
    client.socket.block()
    client.push("a")
    waiting = client.push("b")
    assert waiting
    waiting.cancel()
    client.socket.free()
    await settle()
    assert client.socket.payloads == ["a"]
    assert client.push("c") is None


async def test_blocked_too_long() -> None:
    client = Client(queue=5, blocked=0.05)
    errors = stats.message_errors
    client.socket.block()
    for payload in "abc":
        client.push(payload)
    await asyncio.sleep(0.2)
    assert client.slow == 1
    assert client.socket.payloads == ["websocket.close"]
    assert stats.message_errors == errors + 3
    with pytest.raises(SessionClosed):
        client.push("d")


async def test_a_client_that_reads_too_little_is_slow_too() -> None:
    """The socket is never blocked for long, but a sender would wait for ever so long."""
    client = Client(blocked=0.15, backlog=1000)
    client.socket.takes_one = True
    client.push("written")
    client.push("in hand")
    waiting = [client.push(str(number)) for number in range(8)]
    for _ in range(5):
        await asyncio.sleep(0.1)
        client.socket.free()
    results = await asyncio.gather(*filter(None, waiting), return_exceptions=True)
    assert client.slow == 1
    assert results[0] is None
    assert isinstance(results[-1], SessionClosed)


async def test_blocked_too_long_by_a_socket_that_then_breaks(caplog: pytest.LogCaptureFixture) -> None:
    client = Client(blocked=0.05)
    client.socket.block()
    client.push("a")
    client.socket.broken = True
    await asyncio.sleep(0.2)
    assert client.slow == 1
    assert not caplog.records  # no exception that nobody retrieves
    with pytest.raises(SessionClosed):
        client.push("b")


async def test_backlog_over_its_limit_ends_waiting_senders_too() -> None:
    client = Client(backlog=10)
    client.socket.block()
    client.push("12345")
    waiting = client.push("67890")
    assert waiting
    assert client.slow == 0
    with pytest.raises(SessionClosed):
        client.push("x")
    assert client.slow == 1
    with pytest.raises(SessionClosed, match="kuiperbelt: session is closed"):
        await waiting


async def test_timed_out_senders_give_their_bytes_back() -> None:
    client = Client(backlog=10)
    client.socket.block()
    client.push("12345")
    for _ in range(5):
        waiting = client.push("12345", timeout=0.01)
        assert waiting
        with pytest.raises(SendTimeout):
            await waiting
    assert client.slow == 0


async def test_last_message_and_close_pass_a_full_queue_and_keep_the_order() -> None:
    client = Client(queue=1)
    client.socket.block()
    client.push("a")
    client.push("b")
    waiting = client.push("c")
    assert waiting
    client.outbound.finish(text("bye"), CLOSE)
    with pytest.raises(SessionClosed):
        await waiting
    with pytest.raises(SessionClosed):
        client.push("d")
    client.socket.free()
    await settle()
    assert client.socket.payloads == ["a", "b", "bye", "websocket.close"]


async def test_finish_twice_closes_once() -> None:
    client = Client()
    client.outbound.finish(None, CLOSE)
    client.outbound.finish(text("late"), CLOSE)
    assert client.socket.payloads == ["websocket.close"]


async def test_before_the_handshake_is_done_messages_wait() -> None:
    client = Client(queue=1, opened=False)
    assert client.push("a") is None
    waiting = client.push("b")
    assert waiting
    assert client.socket.payloads == []
    client.outbound.open()
    await waiting
    assert client.socket.payloads == ["a", "b"]


async def test_a_broken_socket_is_a_closed_session() -> None:
    client = Client()
    client.socket.broken = True
    with pytest.raises(SessionClosed):
        client.push("a")


async def test_a_socket_that_breaks_while_blocked() -> None:
    client = Client(queue=1)
    errors = stats.message_errors
    client.socket.block()
    client.push("a")
    client.push("b")
    waiting = client.push("c")
    assert waiting
    client.socket.broken = True
    client.socket.free()
    with pytest.raises(SessionClosed):
        await waiting
    assert stats.message_errors == errors + 2


async def test_drop_before_the_writer_ran() -> None:
    client = Client()
    client.socket.block()
    client.push("a")
    client.outbound.drop(None)
    await settle()
    client.socket.free()
    await settle()
    assert client.socket.payloads == []
