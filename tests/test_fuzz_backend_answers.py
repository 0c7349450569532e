"""Whatever bytes a backend answers with, cut anywhere: an answer that the contract knows, or a documented error."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.callbacks import MAX_ANSWER_SIZE, Accepted, Callbacks, Session
from proxy.conf import Options
from proxy.exceptions import CallbackError, ConnectRefused
from proxy.protocol import Frame, is_session_key
from tests.backend import reset
from tests.fuzzing import World, examples
from tests.redis_servers import eventually

TIMEOUT = 0.3  # seconds of a callback
SESSION = Session("k", "0d9d4f2e-5a38-4b0e-8f0a-6f3a8f1e9a11", "node:1")


@dataclass
class Script:
    """What the backend does with each request: write the pieces, then end the connection, or keep it."""

    pieces: list[bytes] = field(default_factory=list)
    end: str = "close"


class Answers(World):
    """A backend that reads requests and doesn't care, and the client in this process."""

    async def start(self) -> None:
        await super().start()
        self.script = Script()
        self.asked = 0
        self.open = 0
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        base = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        self.callbacks = Callbacks(
            Options(
                connect_callback=f"{base}/connect",
                receive_callback=f"{base}/receive",
                callback_timeout=TIMEOUT,
                receive_reply=True,
            )
        )

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.asked += 1
                for piece in self.script.pieces:
                    writer.write(piece)
                    await asyncio.sleep(0)
                if self.script.end == "reset":
                    reset(writer)
                if self.script.end != "keep":
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def end(self) -> None:
        await self.callbacks.shut_down()
        await eventually(self.all_closed, "the client to close its connections")
        self.server.close()
        await super().end()

    async def all_closed(self) -> bool:
        return not self.open


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    with Answers.running(tmp_path_factory.mktemp("answers")) as world:
        yield world


status = st.sampled_from([b"200 OK", b"200 OK", b"200 OK", b"401 No", b"100 Continue", b"101 Up", b"204 x", b"304 x"])
status_line = st.one_of(
    status.map(lambda status: b"HTTP/1.1 " + status),
    status.map(lambda status: b"HTTP/1.0 " + status),
    st.builds(b"HTTP/%d.%d %d ".__mod__, st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(-1, 10**6))),
    st.binary(max_size=20),
)
header = st.one_of(
    st.sampled_from(
        [
            b"X-Kuiperbelt-Session: alice",
            b"X-Kuiperbelt-Session: alice",
            b"X-Kuiperbelt-Session: a b",
            b"Content-Type: application/octet-stream",
            b"Content-Length: 5",
            b"Content-Length: +5",
            b"Content-Length: 99999999999999999999999",
            b"Content-Length: 5, 5",
            b"Transfer-Encoding: chunked",
            b"Transfer-Encoding: gzip, chunked",
            b"Connection: close",
            b"Upgrade: websocket",
            b"Content-Encoding: gzip",
            b"Sec-WebSocket-Protocol: v1",
            b"Retry-After: 5\x00",
            b"Retry-After: 5\r6",
            b" folded: x",
            b"X-Long: " + b"x" * 70_000,
        ]
    ),
    st.tuples(st.binary(max_size=12), st.binary(max_size=12)).map(b": ".join),
    st.sampled_from([b"Retry-After: ", b"WWW-Authenticate: ", b"Content-Type: "]).flatmap(
        lambda name: st.binary(max_size=12).map(lambda value: name + value)
    ),
)
chunks = st.tuples(st.sampled_from([b"5", b"5;a=b", b"-5", b"0x5", b"ffffffffffffffffff", b"\xff", b""])).map(
    lambda size: size[0] + b"\r\nhello\r\n0\r\n\r\n"
)
body = st.one_of(st.just(b"hello"), chunks, st.binary(max_size=40), st.just(b"x" * (MAX_ANSWER_SIZE + 10)))
answer = st.builds(
    lambda line, headers, eol, body: eol.join([line, *headers, b"", body]),
    status_line,
    st.lists(header, max_size=5),
    st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n"]),
    body,
)
raw = st.one_of(answer, answer, answer, st.lists(answer, max_size=2).map(b"".join), st.binary(max_size=60))
cuts = st.lists(st.integers(0, 200), max_size=5)
ENDS = ["close", "close", "close", "close", "reset", "keep"]


@examples(150)
@given(raw, cuts, st.sampled_from(ENDS))
def test_connect(world: Answers, raw: bytes, cuts: list[int], end: str) -> None:
    """The backend's yes, its no, or an error that the client gets as 502."""
    world.script = script(raw, cuts, end)
    found = world.do(outcome(world, world.callbacks.connect([], b"", ["v1"])))
    if isinstance(found, CallbackError):
        assert str(found).isprintable()
    elif isinstance(found, ConnectRefused):
        assert 200 < found.status <= 999
        assert not 300 <= found.status < 400
        assert len(found.body) <= MAX_ANSWER_SIZE
        for name, value in found.headers:
            assert name in (b"content-type", b"retry-after", b"www-authenticate")
            assert not set(b"\r\n\0") & set(value), found.headers  # it would be one header more for the client
    else:
        assert isinstance(found, Accepted)
        assert is_session_key(found.key)
        assert found.subprotocol in (None, "v1")
        assert found.first_frame is None or 0 < found.first_frame.size <= MAX_ANSWER_SIZE


@examples(60)
@given(raw, cuts, st.sampled_from(ENDS))
def test_receive(world: Answers, raw: bytes, cuts: list[int], end: str) -> None:
    """A frame, none, or an error that is logged."""
    world.script = script(raw, cuts, end)
    found = world.do(outcome(world, world.callbacks.receive(SESSION, Frame("", 0))))
    assert found is None or isinstance(found, Frame | CallbackError)


def script(raw: bytes, cuts: list[int], end: str) -> Script:
    return Script([raw[start:stop] for start, stop in itertools.pairwise([0, *sorted(cuts), len(raw)])], end)


async def outcome(world: Answers, callback: Awaitable[object]) -> object:
    """The callback's result, or its error. The backend was asked at most twice, and nothing runs on."""
    before, tasks = world.asked, len(asyncio.all_tasks())
    began = asyncio.get_running_loop().time()
    try:
        return await callback
    except (CallbackError, ConnectRefused) as error:
        return error
    finally:
        assert world.asked - before <= 2
        assert asyncio.get_running_loop().time() - began < TIMEOUT + 5
        world.script = Script()  # whoever asks again hears nothing

        async def quiet() -> bool:
            serving = world.open
            return serving <= 4 and len(asyncio.all_tasks()) - serving <= tasks + 1

        await eventually(quiet, "what the callback began to end")
