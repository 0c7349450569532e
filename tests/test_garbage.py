"""The garbage collector's settings, in a process of their own; and that connections leave nothing for it to do.

It comes rarely, so what only it can free would be held for hours.
"""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.backend import Answer, Backend
from tests.clients import RawWebSocket, client, close, ending, masked, send
from tests.redis_servers import RedisServer, eventually
from tests.servers import Server, Servers
from tests.watchers import Watch

WATCH_LEASE = 1.0  # seconds that a tap stays after its session
SCRIPT = """
import gc
from proxy.garbage import tune_garbage_collector
tune_garbage_collector()
print(gc.get_threshold(), gc.get_freeze_count())
"""


def test_what_is_there_at_start_is_frozen_and_collections_are_rarer() -> None:
    output = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    thresholds, frozen = output.strip().rsplit(" ", 1)
    assert thresholds == "(20000, 20, 50)"
    assert int(frozen) > 1000


class Node:
    """A server that says how many objects the collector had to free."""

    def __init__(self, server: Server, file: Path) -> None:
        self.server = server
        self._file = file

    async def garbage(self) -> int:
        before = self._lines()
        self.server.signal(signal.SIGRTMIN)

        async def looked() -> bool:
            return len(self._lines()) > len(before)

        await eventually(looked, "a look inside", 10)
        return int(json.loads(self._lines()[-1])["garbage"])

    def _lines(self) -> list[str]:
        return self._file.read_text().split("\n")[:-1] if self._file.exists() else []


@pytest.fixture(scope="module")
async def node(backend: Backend, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """With registry and Redis."""
    directory = tmp_path_factory.mktemp("garbage")
    servers = Servers(backend, directory, redis.url)
    file = directory / "look"
    env = servers.cluster_env() | {
        "LOOK_FILE": str(file),
        "EKBO_MAX_MESSAGE_SIZE": "1000",
        "WATCH_LEASE": str(WATCH_LEASE),
    }
    yield Node(await servers.start("instrumented", env), file)
    await servers.stop()


async def client_closes(server: Server, key: str) -> None:
    async with client(server, key) as connection:
        await connection.send("hello")
        await send(server, key)
        await connection.recv()


async def watched(server: Server, key: str) -> None:
    """Whose watcher goes first."""
    async with client(server, key) as connection, Watch.open(server, key) as watch:
        await watch.next("session")
        await connection.send("hello")
        await send(server, key)
        await connection.recv()
        await watch.next("callback")


async def watched_to_the_end(server: Server, key: str) -> None:
    """Its tap outlasts it."""
    async with client(server, key) as connection, Watch.open(server, key) as watch:
        await watch.next("session")
        await connection.close()
        await watch.next("closed")


async def client_vanishes(server: Server, key: str) -> None:
    async with client(server, key) as connection:
        connection.transport.abort()


async def backend_closes(server: Server, key: str) -> None:
    async with client(server, key) as connection:
        await close(server, key)
        await ending(connection)


async def another_owns_the_key(server: Server, key: str) -> None:
    async with client(server, key) as connection, client(server, key):
        await ending(connection)


async def too_large(server: Server, key: str) -> None:
    async with client(server, key) as connection:
        await connection.send("x" * 2000)
        await ending(connection)


async def no_utf8(server: Server, key: str) -> None:
    async with RawWebSocket.connected(server, key) as connection:
        connection.writer.write(masked(1, b"\xff"))
        assert await connection.closed() == 1007


async def refused(server: Server, key: str) -> None:
    async with RawWebSocket.open(server) as connection:
        assert (await connection.handshake("/connect?key=refused")).status == 401


@pytest.mark.parametrize(
    "life",
    [
        client_closes,
        watched,
        watched_to_the_end,
        client_vanishes,
        backend_closes,
        another_owns_the_key,
        too_large,
        no_utf8,
        refused,
    ],
)
async def test_a_connection_leaves_no_garbage(
    node: Node, backend: Backend, life: Callable[[Server, str], Awaitable[None]]
) -> None:
    """Of each kind of end 25, after one that may make what is made once."""
    backend.on("/connect", "refused", Answer(401, close=True))
    await life(node.server, f"{life.__name__}0")
    await asyncio.sleep(0.2)  # the server's side ends a little later
    await node.garbage()
    for five in range(1, 26, 5):
        await asyncio.gather(*(life(node.server, f"{life.__name__}{number}") for number in range(five, five + 5)))
    await asyncio.sleep(WATCH_LEASE + 0.2 if life is watched_to_the_end else 0.2)
    assert await node.garbage() < 5
