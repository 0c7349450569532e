"""What the self-test says of a node that refuses, or is silent; what it does with one that works is in test_doctor."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from proxy import self_test
from proxy.conf import Options
from proxy.node_check import doors
from tests.test_node_check import answering


async def run(port: int) -> tuple[str, str, str]:
    options = Options(host="127.0.0.1", port=port, registry=False)
    (door,) = doors(options)
    (finding,) = await self_test.run(door, [door.api()], "bob", "user=bob", [], options)
    assert finding.state == "failed"
    return finding.name, finding.found, finding.advice


@pytest.mark.parametrize(("status", "advice"), [(403, "--query and --header"), (502, "checkbackend"), (500, "log")])
async def test_refused(status: int, advice: str) -> None:
    async with answering(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status) as port:
        name, found, said = await run(port)
    assert (name, found) == ("connect", f"status {status}")
    assert advice in said


async def test_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "LIMIT", 0.5)

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        began = monotonic()
        name, found, _ = await run(server.sockets[0].getsockname()[1])
    assert (name, found) == ("connect", "none")
    assert monotonic() - began < 3
