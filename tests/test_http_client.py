"""Connections: kept, used again, given up, waited for. And callbacks by HTTPS: certificates are verified."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from proxy.callbacks import Callbacks
from proxy.conf import Options
from proxy.dial import Tcp
from proxy.exceptions import AnswerCut, CallbackError, HttpError, HungUp, Unreachable
from proxy.http_client import HttpClient
from proxy.http_connection import Connection
from tests.scripted import CLOSE, HANG, RESET, Scripted, Step, scripted

PAST = datetime(2020, 1, 1, tzinfo=UTC)
ANSWER = b"HTTP/1.1 200 OK\r\nX-Kuiperbelt-Session: k\r\n%sContent-Length: 0\r\nConnection: close\r\n\r\n"


class Tls:
    """A backend with a certificate for 127.0.0.1, and the file of who has signed it."""

    def __init__(self, directory: Path) -> None:
        self.ours = trustme.CA()
        self.file = str(directory / "ca.pem")
        self.ours.cert_pem.write_to_path(self.file)
        self.served = 0

    async def serve(self, certificate: trustme.LeafCert) -> asyncio.Server:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(context)
        return await asyncio.start_server(self._answer, "127.0.0.1", 0, ssl=context)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.served += 1
        writer.write(ANSWER % b"")
        await writer.drain()
        writer.close()


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    return Tls(tmp_path)


async def ask(url: str, ca: str = "") -> str:
    callbacks = Callbacks(Options(connect_callback=url, callback_ca=ca, callback_timeout=5.0))
    try:
        return (await callbacks.connect([], b"", [])).key
    finally:
        await callbacks.shut_down()


async def test_a_certificate_of_the_configured_authority(tls: Tls) -> None:
    async with await tls.serve(tls.ours.issue_cert("127.0.0.1")) as server:
        port = server.sockets[0].getsockname()[1]
        assert await ask(f"https://127.0.0.1:{port}/connect", tls.file) == "k"


@pytest.mark.parametrize("wrong", ["unknown to the system", "of another authority", "for another host", "expired"])
async def test_forged_backend_a_bad_certificate_is_told_nothing(tls: Tls, wrong: str) -> None:
    made = {
        "of another authority": lambda: trustme.CA().issue_cert("127.0.0.1"),
        "for another host": lambda: tls.ours.issue_cert("backend.example.com"),
        "expired": lambda: tls.ours.issue_cert("127.0.0.1", not_after=PAST, not_before=PAST),
    }.get(wrong, lambda: tls.ours.issue_cert("127.0.0.1"))()
    async with await tls.serve(made) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(CallbackError, match="certificate isn't believed"):
            await ask(f"https://127.0.0.1:{port}/connect", "" if wrong == "unknown to the system" else tls.file)
    assert tls.served == 0


@pytest.fixture
async def raw() -> AsyncIterator[asyncio.Queue[bytes]]:
    """A backend that answers what is put here; its port comes first."""
    queue: asyncio.Queue[bytes] = asyncio.Queue()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(await queue.get())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        queue.put_nowait(str(server.sockets[0].getsockname()[1]).encode())
        yield queue


@pytest.mark.parametrize("headers", [b"X-Long: %s\r\n" % (b"x" * 9000), b"X-Many: x\r\n" * 200])
async def test_headers_over_the_limit(raw: asyncio.Queue[bytes], headers: bytes) -> None:
    port = int(await raw.get())
    raw.put_nowait(ANSWER % headers)
    with pytest.raises(CallbackError, match="connect: "):
        await ask(f"http://127.0.0.1:{port}/connect")
    raw.put_nowait(ANSWER % (b"X-Long: %s\r\n" % (b"x" * 4000) + b"X-Many: x\r\n" * 50))
    assert await ask(f"http://127.0.0.1:{port}/connect") == "k"


REQUEST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Client(HttpClient):
    """One for a scripted server."""

    def __init__(self, server: Scripted, limit: int = 512, keep_alive: float = 10.0) -> None:
        super().__init__(Tcp("127.0.0.1", server.port), limit, keep_alive)

    async def ask(self, timeout: float | None = 5.0) -> bytes:
        return (await self.exchange(REQUEST, 1000, timeout)).body


def asked(server: Scripted) -> list[int]:
    """On which connections requests came."""
    return [number for number, _ in server.requests]


@pytest.mark.parametrize("end", [CLOSE, RESET])
async def test_a_kept_connection_that_ends_under_a_request(end: str) -> None:
    """The same once more on a new connection, and no more than once."""
    async with scripted([[GOOD], [end]], [[GOOD], [end]], [[end]]) as server:
        client = Client(server)
        assert [await client.ask() for _ in range(2)] == [b"ok"] * 2
        with pytest.raises(HungUp):
            await client.ask()
        assert asked(server) == [1, 1, 2, 2, 3]
        await client.shut_down()


@pytest.mark.parametrize("end", [CLOSE, RESET])
async def test_a_new_connection_that_ends_is_an_answer_enough(end: str) -> None:
    async with scripted([[end]]) as server:
        with pytest.raises(HungUp):
            await Client(server).ask()
        assert asked(server) == [1]


async def test_no_repeat_when_a_part_of_an_answer_came() -> None:
    async with scripted([[GOOD], [b"H", 0.01, CLOSE]]) as server:
        client = Client(server)
        await client.ask()
        with pytest.raises(AnswerCut):
            await client.ask()
        assert asked(server) == [1, 1]


async def test_no_repeat_of_what_took_too_long() -> None:
    async with scripted([[GOOD], [HANG]]) as server:
        client = Client(server)
        await client.ask()
        with pytest.raises(TimeoutError):
            await client.ask(0.1)
        assert asked(server) == [1, 1]


async def test_an_unused_connection_is_closed() -> None:
    """Some time after its last request, not its first."""
    async with scripted([[GOOD]] * 2) as server:
        client = Client(server, keep_alive=0.3)
        await client.ask(0.1)  # whose time-out comes earlier
        await asyncio.sleep(0.2)
        await client.ask()
        await asyncio.sleep(0.2)
        assert (server.connections, server.ended) == (1, 0)
        await asyncio.sleep(0.2)
        assert server.ended == 1


async def test_more_at_once_than_connections() -> None:
    """Who came first goes first, and a connection that is free again is used."""
    async with scripted([[0.01, GOOD]] * 6) as server:
        client = Client(server, limit=1)
        done: list[int] = []

        async def one(number: int) -> None:
            assert await client.ask() == b"ok"
            done.append(number)

        await asyncio.gather(*map(one, range(6)))
        assert (server.connections, done) == (1, list(range(6)))
        await client.shut_down()


async def test_the_wait_for_a_connection_counts() -> None:
    async with scripted([[HANG]], [[GOOD]]) as server:
        client = Client(server, limit=1)
        first = asyncio.create_task(client.ask())
        await asyncio.sleep(0.05)
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await client.ask(0.1)
        assert time.monotonic() - began < 1
        assert asked(server) == [1]
        first.cancel()
        assert await client.ask() == b"ok"
        await client.shut_down()


async def test_connecting_counts() -> None:
    async def never(make: object) -> Connection:
        await asyncio.sleep(60)
        raise AssertionError

    with pytest.raises(TimeoutError):
        await HttpClient(never).exchange(REQUEST, 1000, 0.1)


async def test_what_is_cancelled_leaves_no_half_read_connection() -> None:
    async with scripted([[GOOD], [GOOD[:20], HANG]], [[GOOD]]) as server:
        client = Client(server)
        await client.ask()
        task = asyncio.create_task(client.ask())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await client.ask() == b"ok"
        assert asked(server) == [1, 1, 2]
        assert server.ended == 1
        await client.shut_down()


async def test_cancelled_at_any_moment_nobody_gets_what_another_asked_for() -> None:
    """Each answer names its connection and request; the limit must come back whole, too."""
    answers: list[list[Step]] = [
        [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", 0.001, b"%03d" % number] for number in range(500)
    ]
    async with scripted(answers) as server:
        client = Client(server, limit=3)
        tasks = [asyncio.create_task(client.ask()) for _ in range(60)]
        for number, task in enumerate(tasks):
            await asyncio.sleep(0.0007)
            if number % 2:
                task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(one, bytes | asyncio.CancelledError) for one in found)
        whole = [one for one in found if isinstance(one, bytes)]
        assert len(whole) >= 30
        assert {len(one) for one in whole} == {3}
        async with asyncio.timeout(2):
            assert len(await asyncio.gather(*(client.ask() for _ in range(3)))) == 3
        await client.shut_down()


async def test_an_answer_that_came_before_the_request_was_out() -> None:
    """The rest of the request would be read as another one."""
    async with scripted([[GOOD, HANG]], [[GOOD]]) as server:
        client = Client(server)
        assert (await client.exchange(REQUEST + bytes(1 << 24), 1000, 5.0)).body == b"ok"
        assert await client.ask() == b"ok"
        assert asked(server) == [1, 2]
        await client.shut_down()


async def test_shut_down() -> None:
    """What waits for an answer fails, and nothing is asked any more."""
    async with scripted([[GOOD], [HANG]], [[HANG]]) as server:
        client = Client(server)
        await client.ask()
        tasks = [asyncio.create_task(client.ask(None)) for _ in range(2)]
        await asyncio.sleep(0.05)
        await client.shut_down()
        for found in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(found, AnswerCut)
        with pytest.raises(Unreachable):
            await client.ask()
        assert server.connections == 2


async def test_a_connection_that_has_ended_is_freed_at_once() -> None:
    """Parser and connection hold each other, and the garbage collector comes rarely."""
    gc.collect()
    before = sum(type(one) is Connection for one in gc.get_objects())
    gc.disable()
    try:
        async with scripted([[GOOD, CLOSE]], [[GOOD[:9], RESET]], [[GOOD], [GOOD]]) as server:
            client = Client(server)
            await client.ask()
            with contextlib.suppress(HttpError):
                await client.ask()
            assert [await client.ask() for _ in range(2)] == [b"ok"] * 2
            await client.shut_down()
        assert server.connections == 3
        assert sum(type(one) is Connection for one in gc.get_objects()) == before
    finally:
        gc.enable()
