"""An answer that goes on, from a real server: handed on as it comes, refusals kept, silence noticed."""

from __future__ import annotations

import asyncio

import pytest

from proxy import node_http
from proxy.exceptions import AnswerCut
from tests.backend import Answer, Backend

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def streamed(backend: Backend, silence: float = 5.0) -> tuple[int, bytes, list[bytes]]:
    """Status and body of the answer, and the pieces that were handed on."""
    pieces: list[bytes] = []
    answer = await node_http.stream("", f"127.0.0.1:{backend.port}", [], "/stream", pieces.append, silence)
    return answer.status, answer.body, pieces


async def test_pieces_as_they_come(backend: Backend) -> None:
    """However many there are, and for longer than the limit of silence."""
    backend.on("/stream", "", Answer(body=b"x" * 10, drip=0.05))
    began = asyncio.get_running_loop().time()
    assert await streamed(backend, 0.3) == (200, b"", [b"x"] * 10)
    assert asyncio.get_running_loop().time() - began > 0.45
    large = b"y" * (1 << 20)
    backend.on("/stream", "", Answer(body=large))
    status, body, pieces = await streamed(backend)
    assert (status, body, b"".join(pieces)) == (200, b"", large)


async def test_a_refusal(backend: Backend) -> None:
    backend.on("/stream", "", Answer(status=403, body=b"no"))
    assert await streamed(backend) == (403, b"no", [])


async def test_an_end_that_is_none(backend: Backend) -> None:
    backend.on("/stream", "", Answer(raw=HEAD + b"1\r\nx\r\n"))
    with pytest.raises(AnswerCut):
        await streamed(backend)


async def test_silence(backend: Backend) -> None:
    backend.on("/stream", "", Answer(body=b"xy", drip=5.0))
    with pytest.raises(TimeoutError):
        await streamed(backend, 0.2)
