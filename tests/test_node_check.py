"""Who listens, and what heartbeats tell; nodes that run are looked at in test_doctor."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils.timezone import now

from proxy.conf import Options
from proxy.findings import Finding, State
from proxy.models import Node
from proxy.node_check import check_door, check_nodes, check_ready, doors
from proxy.remote import ApiPlace


@contextlib.asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    """A port where whoever asks gets this."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def look(options: Options) -> tuple[Finding, bool]:
    return await check_door(doors(options)[0], options)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "something else, which answers 404"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "something else, which answers 200"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "something that isn't the proxy (Expected HTTP/, RTSP/ or ICE/)"),
    ],
)
async def test_the_port_is_taken(answer: bytes, found: str) -> None:
    async with answering(answer) as port:
        finding, runs = await look(Options(host="127.0.0.1", port=port))
    assert (finding.state, finding.found, runs) == (State.FAILED, found, False)


async def test_a_certificate_that_cannot_be_read(tmp_path: Path) -> None:
    finding, runs = await look(Options(tls_cert=f"{tmp_path}/none.pem"))
    assert (finding.state, runs) == (State.FAILED, False)
    assert finding.found.startswith("expected the nodes' certificate, PEM, in ")


async def test_nothing_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    finding, runs = await look(Options(host="127.0.0.1", port=port))
    assert (finding.state, runs) == (State.SKIPPED, False)
    finding, _ = await look(Options(host="192.0.2.1", port=port))
    assert (finding.state, finding.found) == (State.FAILED, "Cannot assign requested address")
    assert (await look(Options(sock=f"{tmp_path}/proxy.sock")))[0].state is State.SKIPPED
    assert (await look(Options(sock=f"{tmp_path}/none/proxy.sock")))[0].state is State.FAILED
    (tmp_path / "file").touch()
    finding, _ = await look(Options(sock=f"{tmp_path}/file"))
    assert (finding.state, finding.found) == (State.FAILED, "a file that isn't a socket is there")
    assert (await look(Options(port=0)))[0].state is State.SKIPPED


def test_doors() -> None:
    """A wildcard is reached by loopback, and known to the registry by the host's name."""
    public, api = doors(Options(tls_cert="cert.pem", api_port=9181))
    assert (public.url, api.url) == ("https://127.0.0.1:9180", "http://127.0.0.1:9181")
    (alone,) = doors(Options(host="::"))
    assert alone.url == "http://[::1]:9180"
    assert alone.api() == ApiPlace(socket.gethostname(), f"{socket.gethostname()}:9180")


def test_heartbeats() -> None:
    def node(name: str, age: float, version: str = "1") -> Node:
        return Node(
            name=name, pid=7, endpoint=f"{name}:1", heartbeat_at=now() - timedelta(seconds=age), version=version
        )

    nodes = [node("well", 4), node("fast", -30), node("slow", 15, "2"), node("dead", 90, "3")]
    found = {finding.name: finding for finding in check_nodes(nodes, Options(), now())}
    assert {name for name, finding in found.items() if finding.state is State.WARNING} == {
        "clock of fast, process 7", "clock of slow, process 7", "dead, process 7", "versions"
    }  # fmt: skip
    assert found["clock of fast, process 7"].found == "30 s ahead"
    assert found["clock of slow, process 7"].found.startswith("at least 10 s behind")
    assert found["dead, process 7"].text.endswith("expected a heartbeat within 30 s, found none for 90 s")
    assert found["nodes"].found.startswith("3 process(es)")
    assert found["versions"].found == "1, 2"


async def test_a_node_says_that_it_is_not_ready() -> None:
    body = b'{"errors":[{"error":"Redis x: lost, for 3 s"}],"result":"NG"}'
    answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    async with answering(answer) as port:
        finding, answers = await check_ready(ApiPlace("web2", f"127.0.0.1:{port}"), Options())
    assert (finding.state, finding.found, answers) == (State.FAILED, "Redis x: lost, for 3 s", True)
    finding, answers = await check_ready(ApiPlace("web2", f"127.0.0.1:{port}"), Options())
    assert (finding.state, finding.found, answers) == (State.FAILED, "none", False)
