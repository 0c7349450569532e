"""HTTP to nodes: which certificate is theirs. What pushes and doctor make of it is in their own tests."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.core.management.base import CommandError

from proxy import conf, node_http
from proxy.conf import Options
from proxy.exceptions import Unreachable, WrongCertificate
from tests.certificates import Certificate
from tests.servers import free_port

Configure = Callable[..., None]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Configure:
    def configure(**options: Any) -> None:
        monkeypatch.setattr(conf, "options", lambda: replace(Options(), **options))

    return configure


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(head), head))
    writer.close()


async def test_over_tls(tmp_path: Path, configure: Configure) -> None:
    certificate = Certificate(tmp_path)
    configure(tls_cert=str(certificate.cert))
    assert node_http.has_tls()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.cert, certificate.key)
    async with await asyncio.start_server(hello, "127.0.0.1", 0, ssl=context) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        answer = await node_http.get("", address, True, "/ping", 1000, 5.0)
        assert answer.body.startswith(f"GET /ping HTTP/1.1\r\nHost: {address}\r\n".encode())
        certificate.renew()
        with pytest.raises(WrongCertificate):
            await node_http.get("", address, True, "/ping", 1000, 5.0)


@pytest.mark.parametrize("content", [None, b"nothing", b"\xff"])
def test_no_certificate(tmp_path: Path, configure: Configure, content: bytes | None) -> None:
    file = tmp_path / "cert.pem"
    if content is not None:
        file.write_bytes(content)
    configure(tls_cert=str(file), api_port=1)
    assert not node_http.has_tls()  # the API's own listener never speaks it
    with pytest.raises(CommandError, match="expected the nodes' certificate"):
        node_http.known_by()


async def test_nobody_there(tmp_path: Path, configure: Configure) -> None:
    configure()
    with pytest.raises(Unreachable, match="Connection refused"):
        await node_http.get("", f"127.0.0.1:{free_port()}", False, "/ping", 1000, 5.0)
    with pytest.raises(Unreachable, match="No such file"):
        await node_http.get(f"{tmp_path}/x.sock", "localhost", False, "/ping", 1000, 5.0)
