"""Callbacks by HTTPS: certificates are verified; and what an answer may hold."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from proxy.callbacks import Callbacks
from proxy.conf import Options
from proxy.exceptions import CallbackError

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
        with pytest.raises(CallbackError, match="Certificate"):
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
