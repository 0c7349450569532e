"""Pushes whose head repeats the last one of their connection: what is recognised, and that it makes no difference."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from proxy import pushes
from proxy.pushes import Head
from proxy.repeated_head import RepeatedHead, learn
from proxy.server import HttpProtocol
from tests.test_push_lane import LIMIT, PING, Pair, conversation, pair

__all__ = ["pair"]  # a fixture

SESSION = b"x-kuiperbelt-session"
LINES = [b"POST /send HTTP/1.1", b"Host: x", b"X-Kuiperbelt-Session: bob", b"Accept: */*", b"Content-Length: 5"]


def bytes_of(lines: list[bytes], body: bytes = b"hello") -> bytes:
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def learnt(raw: bytes, session: bytes = b"bob", size: bytes = b"5", body: bytes = b"hello") -> RepeatedHead | None:
    """What is learnt from a request of which the parser found this."""
    head = Head([(SESSION, session), (b"content-length", size)], SESSION)
    return learn(raw, SESSION, head, pushes.send, b"/send", body)


@pytest.mark.parametrize("lines", [LINES, LINES[:2] + LINES[:1:-1], [*LINES[:2], LINES[4], b"a: b", LINES[2]]])
def test_what_differs_in_session_and_length_is_recognised(lines: list[bytes]) -> None:
    usual = learnt(bytes_of(lines))
    assert usual
    other = [line.replace(b": bob", b": alice-2").replace(b": 5", b": 12") for line in lines]
    assert usual.body_of(bytes_of(other, b"hello\r\n\r\nyou")) == b"hello\r\n\r\nyou"
    assert usual.head.session_values == [b"alice-2"]


@pytest.mark.parametrize(
    "raw",
    [
        bytes_of(LINES)[:-1],
        bytes_of(LINES) + b"P",
        bytes_of([*LINES[:-1], b"Content-Length: 5\r\nX: y"]),
        bytes_of([*LINES[:-1], b"Content-Length: 6"]),
        bytes_of([*LINES[:-1], b"Content-Length: +5"]),
        bytes_of([*LINES[:-1], b"Content-Length:  5"]),
        bytes_of([*LINES[:-1], b"Content-Length: "], b""),
        bytes_of([b"POST /close HTTP/1.1", *LINES[1:]]),
        bytes_of([*LINES[:3], b"Accept: text", *LINES[4:]]),
        b"\r\n" + bytes_of(LINES),
        bytes_of(LINES).replace(b"\r\n", b"\n"),
    ],
)
def test_what_differs_elsewhere_is_not(raw: bytes) -> None:
    usual = learnt(bytes_of(LINES))
    assert usual
    assert usual.body_of(raw) is None


@pytest.mark.parametrize(
    "raw",
    [
        bytes_of(LINES).replace(b"\r\nHost", b"\nHost"),
        bytes_of(LINES) * 2,
        bytes_of([*LINES[:2], b"X-Kuiperbelt-Session: bob ", *LINES[3:]]),
        bytes_of([*LINES, b"X-Kuiperbelt-Session: bob"]),
        bytes_of([*LINES[:2], b"X-Kuiperbelt-Session : bob", *LINES[3:]]),
        # A head that ends with bare line feeds, and a body that looks like the rest of one.
        b"\n".join(LINES) + b"\n\nX\r\nX-Kuiperbelt-Session: bob\r\nContent-Length: 5\r\n\r\nhello",
        bytes_of(LINES, b"hullo"),
    ],
)
def test_what_is_not_learnt_from(raw: bytes) -> None:
    assert learnt(raw) is None


def test_a_folded_line_is_not_learnt_from() -> None:
    raw = bytes_of([*LINES[:2], b"X-Kuiperbelt-Session: bob\r\n by", *LINES[3:]])
    assert learnt(raw, session=b"bob by") is None


class Counting(HttpProtocol):
    """Counts what the parser gets."""

    parsed = 0

    def on_message_begin(self) -> None:
        Counting.parsed += 1
        super().on_message_begin()


async def test_the_parser_gets_the_first_request_only() -> None:
    """Until one is different, or none of several was the same."""
    config: Any = uvicorn.Config(print, log_config=None, lifespan="off")
    config.load()
    server = await asyncio.get_running_loop().create_server(
        partial(Counting, config, ServerState(), {}), "127.0.0.1", 0
    )
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())

    async def push(*more: bytes, key: str = "nobody") -> None:
        writer.write(bytes_of([*LINES[:2], b"X-Kuiperbelt-Session: %s" % key.encode(), *LINES[3:], *more]))
        assert b" 200 OK\r\n" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2)
        assert key.encode() in await reader.readuntil(b"}\n")

    Counting.parsed = 0
    for number in range(10):
        await push(key=f"nobody-{number}")
    assert Counting.parsed == 1
    for number in range(10):
        await push(b"Traceparent: %d" % number)
    assert Counting.parsed == 11
    for _ in range(10):
        await push(b"Traceparent: 2")
    assert Counting.parsed == 11
    writer.close()
    server.close()


# The same bytes to a server with the lane and one without it. {a} and {b} stand for sessions of the example.

sessions = st.sampled_from(
    [b"{a}", b"{a}", b"{b}", b"{a},{b}", b" {a}", b"{a} ", b"\t{a}", b"", b"gone", b"a b", b"{a}\x01", b"{a}\xe9",
     b"{a}\0", b"{a}\r", b"{a}\nX: y", b"{a}\r\nX: y", b"{a}\r\n {b}", b"{a}\r\nX-Kuiperbelt-Session: {b}", b"k" * 257]
)  # fmt: skip
bodies = st.sampled_from([b"hello", b"", b"\r\n\r\n", b"\xff", "grüß".encode(), b"y" * (LIMIT + 1), b"x" * LIMIT])
sizes = st.sampled_from([b"%d", b"%d", b"%d", b"%d", b"0%d", b" %d", b"%d ", b"+%d", b"-%d", b"", b"%d,%d"])
heads = st.sampled_from(
    [
        b"POST /send HTTP/1.1\r\nHost: x\r\nX-Kuiperbelt-Session: %s\r\nContent-Length: %s\r\n\r\n",
        b"POST /send HTTP/1.1\r\nHost: x\r\nContent-Length: %s\r\nA: b\r\nx-kuiperbelt-session:%s\r\nC: d\r\n\r\n",
        b"POST /close HTTP/1.1\r\nHost: x\r\nX-Kuiperbelt-Session: %s\r\nContent-Length: %s\r\n\r\n",
    ]
)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(heads, st.lists(st.tuples(sessions, sizes, bodies), min_size=1, max_size=6))
def test_lane_and_view_do_the_same(pair: Pair, head: bytes, pushes: list[tuple[bytes, bytes, bytes]]) -> None:
    """A plain push, others with the same head, but for the session and the length, and a plain one again."""
    keys = [f"{next(pair.numbers)}{name}" for name in "ab"]
    pieces = []
    for session, size, body in [(b"{a}", b"%d", b"first"), *pushes, (b"{b}", b"%d", b"last")]:
        size = size.replace(b"%d", b"%d" % len(body))
        holes = (size, session) if b"Length: %s\r\nA" in head else (session, size)
        piece = head % holes + body
        pieces.append(piece.replace(b"{a}", keys[0].encode()).replace(b"{b}", keys[1].encode()))
    for pause in (0.001, 0.3):  # uvicorn's 400 doesn't wait for the view's answer to what came before
        ways = [pair.do(conversation(server, keys, [*pieces, PING], pause)) for server in (pair.lane, pair.view)]
        if ways[0] == ways[1]:
            break
    assert ways[0] == ways[1]
