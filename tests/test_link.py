"""One connection to Redis: pipelining, the order of answers, time-outs, and what makes it give up."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from channels_redis.utils import create_pool

from proxy.link import LOST, Link
from proxy.options import Options
from proxy.redis_hosts import redis_hosts
from tests.redis_servers import RedisServer


class Opened:
    """A link and what it told."""

    def __init__(self, timeout: float = 1.0) -> None:
        self.messages: list[tuple[bytes, bytes]] = []
        self.flushes = 0
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.link = Link(lambda *message: self.messages.append(message), self.flushed, self.lost.set_result, timeout)

    def flushed(self) -> None:
        self.flushes += 1

    async def open(self, url: str) -> "Opened":
        ((_, host),) = redis_hosts(Options(redis_url=(url,), reply_timeout=1.0))
        await self.link.open(create_pool(host))
        return self

    async def ask(self, *command: bytes) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.link.call(answer.set_result, *command)
        async with asyncio.timeout(5):
            return await answer


@pytest.fixture
async def opened(redis: RedisServer) -> AsyncIterator[Opened]:
    made = await Opened().open(redis.url)
    yield made
    made.link.lose("end of the test")


async def test_answers_belong_to_their_commands_and_a_turn_is_one_write(opened: Opened) -> None:
    answers = await asyncio.gather(*[opened.ask(b"ECHO", b"%d" % number) for number in range(100)])
    assert answers == [b"%d" % number for number in range(100)]
    assert opened.flushes == 1


async def test_messages_come_in_between(opened: Opened) -> None:
    opened.link.write((b"SUBSCRIBE", b"news"))
    assert await opened.ask(b"PUBSUB", b"NUMSUB", b"news") == [b"news", 1]
    assert await opened.ask(b"PUBLISH", b"news", b"\x00\xff\r\n") == 1
    assert await opened.ask(b"PING") == b"PONG"
    assert opened.messages == [(b"news", b"\x00\xff\r\n")]
    opened.link.write((b"UNSUBSCRIBE", b"news"))
    assert await opened.ask(b"PUBLISH", b"news", b"again") == 0


async def test_large_messages(opened: Opened) -> None:
    large = bytes(range(256)) * 4096
    assert await opened.ask(b"ECHO", large) == large
    answers = await asyncio.gather(*[opened.ask(b"ECHO", large) for _ in range(30)])
    assert all(answer == large for answer in answers)


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (lambda redis: redis.kill(), "closed|reset"),
        (lambda redis: redis.execute("CLIENT", "KILL", "TYPE", "NORMAL"), "closed"),
    ],
)
async def test_a_lost_connection_loses_what_is_not_answered(end: Callable[[RedisServer], Any], why: str) -> None:
    async with RedisServer.running() as redis:
        opened = await Opened(timeout=5).open(redis.url)
        assert await opened.ask(b"PING") == b"PONG"
        redis.pause()
        waiting = [asyncio.create_task(opened.ask(b"PING")) for _ in range(3)]
        await asyncio.sleep(0.05)
        if why == "closed":
            redis.resume()
            await asyncio.gather(*waiting)
            waiting = []
        await end(redis)
        async with asyncio.timeout(5):
            assert await opened.lost
        assert [*await asyncio.gather(*waiting)] == [LOST] * len(waiting)
        assert opened.link.closed
        assert await opened.ask(b"PING") is LOST


async def test_a_redis_that_hangs_is_given_up() -> None:
    async with RedisServer.running() as redis:
        opened = await Opened(timeout=0.3).open(redis.url)
        redis.pause()
        began = asyncio.get_running_loop().time()
        assert [*await asyncio.gather(opened.ask(b"PING"), opened.ask(b"PING"))] == [LOST, LOST]
        assert asyncio.get_running_loop().time() - began < 1.5
        assert "no answer within 0.3 s" in await opened.lost


async def test_an_answer_that_waits_for_us_is_not_late(redis: RedisServer) -> None:
    """This process is busy for longer than the time-out; Redis has answered long ago."""
    opened = await Opened(timeout=0.2).open(redis.url)
    asking = asyncio.create_task(opened.ask(b"PING"))
    await asyncio.sleep(0.01)
    opened.link.call(lambda reply: None, b"PING")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    time.sleep(0.6)  # noqa: ASYNC251  that's the point
    assert await asking == b"PONG"
    await asyncio.sleep(0.3)
    assert not opened.lost.done()
    opened.link.lose("end of the test")


async def test_a_refused_command_ends_the_connection(opened: Opened) -> None:
    """A refused SUBSCRIBE answers, a good one doesn't: afterwards nothing could be told apart."""
    answers = await asyncio.gather(opened.ask(b"PUBLISH", b"one too few"), opened.ask(b"PING"))
    assert [*answers] == [LOST, LOST]
    assert "wrong number of arguments" in await opened.lost


async def test_too_much_unanswered(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.link.MAX_UNANSWERED", 3)
    answers = await asyncio.gather(*[opened.ask(b"PING") for _ in range(5)])
    assert answers == [b"PONG"] * 3 + [LOST] * 2


async def test_too_much_unsent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis doesn't read: what this process holds for it has an end."""
    monkeypatch.setattr("proxy.link.MAX_UNSENT", 1 << 20)
    async with RedisServer.running() as redis:
        opened = await Opened(timeout=10).open(redis.url)
        redis.pause()
        large = b"x" * (1 << 20)
        asking = [asyncio.create_task(opened.ask(b"ECHO", large)) for _ in range(50)]
        done, waiting = await asyncio.wait(asking, timeout=0.2)
        assert {task.result() for task in done} == {LOST}
        assert len(done) > 30
        assert opened.link._transport.get_write_buffer_size() < 3 << 20
        redis.resume()
        assert {*await asyncio.gather(*waiting)} == {large}
        assert await opened.ask(b"PING") == b"PONG"
        opened.link.lose("end of the test")


async def test_what_cannot_be_reached() -> None:
    with pytest.raises(Exception, match=r"127\.0\.0\.1:9"):
        await Opened().open("redis://127.0.0.1:9")


async def test_a_replica_is_refused() -> None:
    """It would take what its master is given, while the master says that nobody is there."""
    async with RedisServer.running("", "--replicaof", "127.0.0.1", "9") as replica:
        with pytest.raises(ConnectionError, match="expected a master, found a replica"):
            await Opened().open(replica.url)


async def test_a_password() -> None:
    async with RedisServer.running("hunter2") as redis:
        opened = await Opened().open(redis.url)
        assert await opened.ask(b"PING") == b"PONG"
        opened.link.lose("end of the test")
        with pytest.raises(Exception, match="invalid username-password") as raised:
            await Opened().open(redis.url.replace("hunter2", "wrong-one"))
        assert "wrong-one" not in str(raised.value)
