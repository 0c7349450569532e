"""A client's link goes down without a word. Run by test_half_open in a network namespace of its own:

    unshare --net python -m tests.half_open

The client is in a second namespace, at the other end of a virtual cable. Nothing of the machine's own network is
touched, and both namespaces go with their processes. PING_INTERVAL is the server's. Prints what it saw as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.backend import Backend
from tests.clients import request, send
from tests.servers import Servers

HERE, THERE = "10.0.0.1", "10.0.0.2"
LIMIT = 60.0  # seconds
CLIENTS = 10
CLIENT = """
import sys, threading
from websockets.sync.client import connect
sockets = []
print("ready", flush=True)
for key in sys.stdin.readline().split():
    sockets.append(connect(f"ws://10.0.0.1:{sys.argv[1]}/connect?key={key}", ping_interval=None, proxy=None))
print("open", flush=True)
sys.stdin.read()
"""


async def run(*command: str) -> None:
    """A command that must succeed."""
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0, command


async def observe(servers: Servers, backend: Backend) -> dict[str, object]:
    """Connect, cut the link, and wait for the close callbacks."""
    server = await servers.start("instrumented", {"EKBO_HOST": "0.0.0.0"})
    idle = [f"idle{number}" for number in range(CLIENTS)]
    pushed = [f"pushed{number}" for number in range(CLIENTS)]
    line = ["unshare", "--net", sys.executable, "-c", CLIENT, str(server.port)]
    pipe = asyncio.subprocess.PIPE
    client = await asyncio.create_subprocess_exec(*line, stdin=pipe, stdout=pipe)
    assert client.stdin
    assert client.stdout
    try:
        assert await client.stdout.readline() == b"ready\n"
        inside = ("nsenter", f"--net=/proc/{client.pid}/ns/net", "ip")
        await run("ip", "link", "add", "here", "type", "veth", "peer", "name", "there", "netns", str(client.pid))
        await run("ip", "address", "add", f"{HERE}/24", "dev", "here")
        await run("ip", "link", "set", "here", "up")
        await run(*inside, "address", "add", f"{THERE}/24", "dev", "there")
        await run(*inside, "link", "set", "there", "up")
        client.stdin.write(" ".join([*idle, *pushed]).encode() + b"\n")
        assert await client.stdout.readline() == b"open\n"
        await asyncio.sleep(float(os.environ["PING_INTERVAL"]) * 1.5)  # well-behaved ones stay
        before = len([one for one in backend.requests if one.path == "/close"])
        await run(*inside, "link", "set", "there", "down")
        cut = time.monotonic()
        for key in pushed:
            await send(server, key, b"x" * 100)
        with contextlib.suppress(AssertionError):
            await backend.until(lambda: all(backend.seen("/close", key) for key in (*idle, *pushed)), "the ends", LIMIT)
        await asyncio.sleep(0.5)
        told = [one for one in backend.requests if one.path == "/close"]
        return {
            "before": before,
            "idle": [one.arrived - cut for one in told if one.key in idle],
            "pushed": [one.arrived - cut for one in told if one.key in pushed],
            "reasons": sorted({str(one.one("X-Kuiperbelt-Close-Reason")) for one in told}),
            "sessions": len({one.key for one in told}),
            "connections": (await request(server, "GET", "/stats")).json()["connections"],
        }
    finally:
        client.kill()
        await client.wait()


async def main() -> None:
    """All of it."""
    await run("ip", "link", "set", "lo", "up")
    backend = Backend()
    await backend.start()
    with tempfile.TemporaryDirectory(prefix="kuiperbelt-half-open-") as logs:
        servers = Servers(backend, Path(logs), "")
        try:
            print(json.dumps(await observe(servers, backend)))
        finally:
            await servers.stop()
            await backend.stop()
        assert not servers.complaints()


if __name__ == "__main__":
    asyncio.run(main())
