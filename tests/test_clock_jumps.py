"""The system's clock is set while the proxy runs: real servers that get their time from Debian's libfaketime."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.backend import Answer, Backend
from tests.clients import client, send
from tests.databases import rows
from tests.servers import Server, Servers
from tests.test_registry import LIMIT, file, reasons, sessions
from tests.vectors_api import OK

pytestmark = pytest.mark.usefixtures("clean_logs")

DAY = 86_400  # seconds
TIMEOUT = 3  # seconds, with room for a busy machine


class Clock:
    """Two nodes' clock of the day, which this test sets; their monotonic clocks go on as they are."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.set("+0")
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
        self.env = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(path),
            # Not a look at the file for each question, nor for each file's times: debug mode asks much.
            "FAKETIME_CACHE_DURATION": "1",
            "NO_FAKE_STAT": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "EKBO_NODE_TIMEOUT": f"{TIMEOUT}s",
        }

    def set(self, offset: str) -> None:
        """As far from the true time as that, for example +1d."""
        self._path.write_text(f"{offset}\n")


def heartbeat(server: Server) -> float:
    """How far the last heartbeat is from the true time, in days, as the database has it."""
    ((last,),) = rows(file(server), "SELECT max(unixepoch(heartbeat_at)) FROM proxy_node")
    return float((last - time.time()) / DAY)


async def test_jumps(servers: Servers, backend: Backend, fresh: Callable[[str], str], tmp_path: Path) -> None:
    """A day ahead, then a day back: nobody is dead, ends are told, again when they are due, and the dead are seen."""
    clock = Clock(tmp_path / "clock")
    pair = await servers.start("cluster", clock.env)
    assert pair.peer
    lost, alive, failing = [fresh("lost") for _ in range(5)], [fresh("alive") for _ in range(5)], fresh("failing")
    async with sessions(pair, lost), sessions(pair.peer, alive):
        backend.on("/close", failing, Answer(status=500))
        async with client(pair.peer, failing):
            pass
        for offset, days in (("+1d", 1), ("-1d", -1)):
            clock.set(offset)
            await asyncio.sleep(TIMEOUT + 1)
            assert heartbeat(pair) == pytest.approx(days, abs=0.01)
            assert reasons(backend, [*lost, *alive]) == {}
            key = fresh("short")
            async with client(pair.peer, key):
                assert (await send(pair, key)).body == OK
            await backend.wait("/close", key)
        attempts = [event.arrived for event in backend.seen("/close", failing)]
        assert 3 <= len(attempts) <= 5
        assert all(later - earlier > 0.9 for earlier, later in itertools.pairwise(attempts))
        backend.on("/close", failing, Answer())
        await pair.kill()
        await backend.until(lambda: all(backend.seen("/close", key) for key in lost), "all events", LIMIT)
        await backend.until(lambda: len(backend.seen("/close", failing)) > len(attempts), "one that is heard", LIMIT)
        assert reasons(backend, lost) == {"node_lost": len(lost)}
        assert reasons(backend, alive) == {}
    await pair.peer.stop()
