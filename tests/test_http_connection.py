"""What a server may answer, and what it may not, on real sockets; and anything at all, split anywhere."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Sequence
from itertools import pairwise

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.dial import Tcp
from proxy.exceptions import AnswerCut, BadAnswer, HttpError, HungUp
from proxy.http_client import HttpClient
from proxy.http_connection import MAX_HEAD_SIZE, MAX_HEADERS, Answer, Connection
from tests.scripted import CLOSE, HANG, RESET, Step, scripted

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LIMIT = 100
OK = b"HTTP/1.1 200 OK\r\n"
PLAIN = OK + b"Content-Length: 2\r\n\r\nok"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


async def ask(steps: Sequence[Step], timeout: float = 5.0) -> tuple[Answer | Exception, bool]:
    """What comes of this answer, and whether the connection is used again after it."""
    async with scripted([steps, [PLAIN]], [[PLAIN]]) as server:
        client = HttpClient(Tcp("127.0.0.1", server.port))
        found: Answer | Exception
        try:
            found = await client.exchange(REQUEST, LIMIT, timeout)
        except (HttpError, TimeoutError) as error:
            found = error
        await asyncio.sleep(0.01)  # what else the server says arrives
        assert (await client.exchange(REQUEST, LIMIT, 5.0)).body == b"ok"
        await client.shut_down()
        return found, server.connections == 1


GOOD: dict[str, tuple[list[Step], bytes, bool]] = {
    "with a length": ([PLAIN], b"ok", True),
    "in pieces": ([PLAIN[:5], 0.01, PLAIN[5:30], 0.01, PLAIN[30:]], b"ok", True),
    "in chunks": ([CHUNKED + b"1\r\no\r\n1;x=y\r\nk\r\n0\r\n\r\n"], b"ok", True),
    "until the end of the connection": ([OK + b"\r\nok", 0.01, b"ay", CLOSE], b"okay", False),
    "Transfer-Encoding that isn't chunked": ([OK + b"Transfer-Encoding: x\r\n\r\nok", CLOSE], b"ok", False),
    "Connection: close": ([OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nok"], b"ok", False),
    "HTTP/1.0": ([PLAIN.replace(b"1.1", b"1.0")], b"ok", False),
    "HTTP/1.0 that stays": ([PLAIN.replace(b"1.1 200 OK", b"1.0 200 OK\r\nConnection: keep-alive")], b"ok", True),
    "100 and 103 before it": ([b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 103 E\r\nA: b\r\n\r\n", 0.01, PLAIN], b"ok", True),
    "204 with a length": ([b"HTTP/1.1 204 N\r\nContent-Length: 9\r\n\r\n"], b"", True),
    "304 with a length": ([b"HTTP/1.1 304 N\r\nContent-Length: 9\r\n\r\n"], b"", True),
    "101": ([b"HTTP/1.1 101 S\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\nwhat"], b"", False),
    "another answer behind it": ([PLAIN * 2], b"ok", False),
    "half an answer behind it": ([PLAIN + b"HTTP/1.1 2"], b"ok", False),
    "garbage behind it": ([PLAIN + b"\0"], b"ok", False),
    "something later, unasked": ([PLAIN, 0.005, b"HTTP/1.1 408 Timeout\r\n\r\n"], b"ok", False),
    "closed behind it": ([PLAIN, CLOSE], b"ok", False),
    "reset behind it": ([PLAIN, 0.005, RESET], b"ok", False),
    "lines without CR": ([b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"], b"ok", True),
    "a padded chunk size": ([CHUNKED + b"2  \r\nok\r\n0\r\n\r\n"], b"ok", True),
    "a trailer": ([CHUNKED + b"2\r\nok\r\n0\r\nX-Key: forged\r\n\r\n"], b"ok", True),
    "Keep-Alive: timeout=0": ([PLAIN.replace(b"OK", b"OK\r\nKeep-Alive: max=9, timeout=0")], b"ok", False),
    "Keep-Alive: timeout=9": ([PLAIN.replace(b"OK", b"OK\r\nKeep-Alive: timeout=9")], b"ok", True),
    "a body just at the limit": ([OK + b"Content-Length: 100\r\n\r\n" + b"x" * LIMIT], b"x" * LIMIT, True),
}


@pytest.mark.parametrize(("steps", "body", "reused"), GOOD.values(), ids=GOOD)
async def test_good_answers(steps: list[Step], body: bytes, reused: bool) -> None:
    answer, used_again = await ask(steps)
    assert isinstance(answer, Answer), answer
    assert (answer.body, used_again) == (body, reused)
    assert answer.get(b"x-key") is None


DRIP: list[Step] = [b"x", 0.05] * 50
BAD: dict[str, tuple[list[Step], type[Exception], str]] = {
    "no HTTP": ([b"SSH-2.0-OpenSSH_9\r\n"], BadAnswer, "Expected HTTP/"),
    "no status": ([b"HTTP/1.1 OK\r\n\r\n"], BadAnswer, "status"),
    "length and chunks": ([CHUNKED.replace(b"OK", b"OK\r\nContent-Length: 2") + b"0\r\n\r\n"], BadAnswer, "present"),
    "two lengths": ([PLAIN.replace(b"OK", b"OK\r\nContent-Length: 2")], BadAnswer, "Content-Length"),
    "no length": ([OK + b"Content-Length: x\r\n\r\n"], BadAnswer, "Content-Length"),
    "a control character in a header": ([OK + b"A: b\0c\r\n\r\n"], BadAnswer, "header value"),
    "a bare CR in a header": ([OK + b"A: b\rc\r\n\r\n"], BadAnswer, "LF"),
    "no chunk size": ([CHUNKED + b"x\r\n"], BadAnswer, "chunk size"),
    "a chunk size without end": ([CHUNKED + b"f" * 20 + b"\r\n"], BadAnswer, "overflow"),
    "too many headers": ([OK + b"A: b\r\n" * (MAX_HEADERS + 1) + b"\r\n"], BadAnswer, "over 128 headers"),
    "a header that is too long": ([OK + b"A: %b\r\n\r\n" % (b"b" * 8190)], BadAnswer, "over 8190 bytes"),
    "a status line without end": ([b"HTTP/1.1 200 ", *[b"x" * MAX_HEAD_SIZE] * 3], BadAnswer, "bytes of headers"),
    "a header without end": ([OK + b"A: ", *[b"x" * MAX_HEAD_SIZE] * 3], BadAnswer, "bytes of headers"),
    "a trailer without end": ([CHUNKED + b"0\r\nA: ", *[b"x" * MAX_HEAD_SIZE] * 3], BadAnswer, "bytes of headers"),
    "trailers without end": ([CHUNKED + b"0\r\n", *[b"A: b\r\n" * 20_000] * 3], BadAnswer, "bytes of headers"),
    "1xx without end": ([b"HTTP/1.1 100 C\r\n\r\n" * 20_000], BadAnswer, "bytes of headers"),
    "closed before it": ([CLOSE], HungUp, "connection closed"),
    "reset before it": ([RESET], HungUp, "reset"),
    "closed in the head": ([OK, CLOSE], AnswerCut, "connection closed, in the middle"),
    "closed after a 100": ([b"HTTP/1.1 100 C\r\n\r\n", CLOSE], AnswerCut, "in the middle"),
    "closed in the body": ([PLAIN[:-1], CLOSE], AnswerCut, "in the middle"),
    "closed in a chunk": ([CHUNKED + b"2\r\no", CLOSE], AnswerCut, "in the middle"),
    "closed before the last chunk": ([CHUNKED + b"2\r\nok\r\n", CLOSE], AnswerCut, "in the middle"),
    "reset in a body without length": ([OK + b"\r\nok", 0.05, RESET], AnswerCut, "reset"),
    "never": ([HANG], TimeoutError, ""),
    "never the rest": ([PLAIN[:-1], HANG], TimeoutError, ""),
    "drop by drop": ([OK + b"Content-Length: 50\r\n\r\n", *DRIP], TimeoutError, ""),
}


@pytest.mark.parametrize(("steps", "kind", "said"), BAD.values(), ids=BAD)
async def test_bad_answers(steps: list[Step], kind: type[Exception], said: str) -> None:
    error, used_again = await ask(steps, timeout=0.3 if kind is TimeoutError else 5.0)
    assert type(error) is kind, error
    assert said in str(error)
    assert not used_again


async def test_an_endless_body_is_read_a_little_over_the_limit() -> None:
    answer, used_again = await ask([OK + b"\r\n", *[b"x" * 65536] * 1000])
    assert isinstance(answer, Answer)
    assert LIMIT < len(answer.body) <= LIMIT + 256 * 1024
    assert not used_again


async def test_headers() -> None:
    """Names in any case, values without the space around them, repeated ones, and bytes that aren't ASCII or UTF-8."""
    head = b"X-One: \t a b \t\r\nx-TWO: 1\r\nX-Two: 2\r\nX-Raw: \xc3\xa9\xff\r\nX-Empty:\r\n"
    answer, _ = await ask([PLAIN.replace(b"OK\r\n", b"OK\r\n" + head)])
    assert isinstance(answer, Answer)
    assert [answer.get(name) for name in (b"x-one", b"x-two", b"x-empty", b"x-none")] == ["a b", "1", "", None]
    assert (answer.all(b"x-two"), answer.all(b"x-none")) == (["1", "2"], [])
    assert (answer.get(b"x-raw") or "").encode(errors="surrogateescape") == b"\xc3\xa9\xff"


class Nobody:
    """Keeps no connections."""

    keep_alive = 10.0

    def on_free(self, connection: Connection) -> None:
        pass

    def on_end(self, connection: Connection) -> None:
        pass


async def outcome(pieces: Sequence[bytes]) -> tuple[object, ...]:
    """What comes of an answer that arrives in these pieces, after which the connection ends."""
    here, there = socket.socketpair()
    with there:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(Nobody(), loop), sock=here)
        asked = asyncio.ensure_future(connection.ask(REQUEST, LIMIT, math.inf))
        await asyncio.sleep(0)
        for piece in pieces:
            if piece and connection.is_open:
                connection.data_received(piece)
        there.close()
        try:
            answer = await asked
        except HttpError as error:
            return type(error), str(error)
        return answer.status, answer.headers, answer.body[:LIMIT]


PARTS = st.sampled_from(
    [
        b"HTTP/1.1 200 OK", b"HTTP/1.0 404 No", b"HTTP/1.1 100 C\r\n\r\n", b"HTTP/1.1 204 N", b"HTTP/1.1 101 S",
        b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"Content-Length: ", b"5", b"0", b"-1", b"99999999999999999999", b"ok",
        b"x" * 150, b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"X-Key: a\r\n", b"2\r\nok\r\n",
        b"0\r\n\r\n", b"f", b"0\r\nX: y\r\n\r\n", b"Upgrade: h2c\r\nConnection: upgrade\r\n", b": ", b" ",
        b"\0", b"\xff", b";",
    ]
)  # fmt: skip
HEADS = st.sampled_from([b"", OK, CHUNKED, OK + b"Content-Length: 7\r\n\r\n", OK + b"\r\n", b"HTTP/1.1 103 E\r\n"])


@settings(max_examples=400, deadline=None)
@given(HEADS, st.lists(PARTS | st.binary(max_size=8), max_size=12), st.lists(st.integers(0, 300), max_size=6))
def test_whatever_comes_however_split(head: bytes, parts: list[bytes], cuts: list[int]) -> None:
    """An answer or one of the errors, the same one whether it comes whole, split somewhere, or byte by byte."""
    whole = head + b"".join(parts)
    ends = sorted({0, *cuts, len(whole)})
    split = [whole[begin:end] for begin, end in pairwise(ends)]
    single = [whole[at : at + 1] for at in range(len(whole))]

    async def all_three() -> None:
        first = await outcome([whole])
        assert await outcome(split) == first
        assert await outcome(single) == first
        if not whole:
            assert first[0] is HungUp

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(all_three())
