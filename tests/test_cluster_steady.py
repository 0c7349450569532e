"""Many clients on two nodes and a steady stream of sends from one node to the other: all is well, or there are faults.

`make steady` is the long form, with the figures that are promised: STEADY_SECONDS for each of both, STEADY_CONNECTIONS,
STEADY_P99 in milliseconds, STEADY_SEED to repeat a run's faults.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
from collections.abc import Awaitable, Callable, Sequence

import pytest

from tests.backend import Backend
from tests.cluster import Cluster, Node
from tests.evidence import Evidence, Figures
from tests.fault_injection import Faults
from tests.history import OK, Payload
from tests.recording import Listener, Recorder, Sender
from tests.redis_servers import RedisServer
from tests.servers import Servers

pytestmark = pytest.mark.usefixtures("clean_logs")

SECONDS = float(os.environ.get("STEADY_SECONDS", "3"))
CONNECTIONS = int(os.environ.get("STEADY_CONNECTIONS", "200"))
P99 = float(os.environ.get("STEADY_P99", "1000"))  # milliseconds from a request's begin until its frame is there
SEED = os.environ.get("STEADY_SEED", "1")

RATE = 200  # sends a second
BURST = 5  # of them to one session, one after the other, so that they could change places
BACK = 15.0  # seconds within which every session must be reached, once all faults are over
AT_ONCE = 50  # connects, and last sends


class Steady:
    """Clients that stay, half of them at each node, and senders at the other one."""

    def __init__(self, cluster: Cluster) -> None:
        self.recorder = Recorder()
        self.over = False
        self.listeners: dict[str, Listener] = {}
        self._idle: list[Sender] = []
        self._made = 0
        first, second = cluster.nodes
        self._keys = [f"steady{number}" for number in range(CONNECTIONS)]
        self._places = {key: (first, second) if n % 2 else (second, first) for n, key in enumerate(self._keys)}

    async def run(self, faults: Faults | None, cluster: Cluster) -> None:
        """All of it: connect, send for so long, see that everybody is well."""
        await self._in_parts(self._connect)
        assert len(self.listeners) == CONNECTIONS
        async with asyncio.TaskGroup() as group:
            staying = [group.create_task(self._stay(key)) for key in self._keys]
            sending = group.create_task(self._send_on())
            await (faults.run(SECONDS) if faults else asyncio.sleep(SECONDS))
            await cluster.all_ready()
            self.over = True
            await sending
            await self._in_parts(self._reach)
            for task in staying:
                task.cancel()
        for sender in self._idle:
            sender.end()
        await self.recorder.end()

    async def _in_parts(self, do: Callable[[str], Awaitable[None]]) -> None:
        for start in range(0, CONNECTIONS, AT_ONCE):
            await asyncio.gather(*(do(key) for key in self._keys[start : start + AT_ONCE]))

    async def _connect(self, key: str) -> None:
        listener = await self.recorder.connect(self._places[key][0], key)
        if listener:
            self.listeners[key] = listener

    async def _stay(self, key: str) -> None:
        """Be there, and when the connection ends come again."""
        while True:
            await self.listeners[key].ended()
            await asyncio.sleep(random.uniform(0.3, 1.0))
            await self._connect(key)

    async def _send_on(self) -> None:
        """At a rate that doesn't depend on how quickly anybody answers."""
        loop = asyncio.get_running_loop()
        due, turn = loop.time(), 0
        async with asyncio.TaskGroup() as group:
            while not self.over:
                group.create_task(self._burst(self._keys[turn * 37 % len(self._keys)]))
                turn += 1
                due += BURST / RATE
                await asyncio.sleep(due - loop.time())

    async def _burst(self, key: str) -> None:
        sender = self._sender()
        for _ in range(BURST):
            await sender.send(self._far(key), key)
        self._idle.append(sender)

    async def _reach(self, key: str) -> None:
        sender = self._sender()
        async with asyncio.timeout(BACK):
            while True:
                last = await sender.send(self._far(key), key)
                if last.outcomes[key] == OK:
                    break
                await asyncio.sleep(0.2)
            await self.listeners[key].wait_for(last.payload)
        self._idle.append(sender)

    def _far(self, key: str) -> Node:
        return self._places[key][1]

    def _sender(self) -> Sender:
        if self._idle:
            return self._idle.pop()
        self._made += 1
        return self.recorder.sender(f"s{self._made}")

    def latencies(self) -> list[float]:
        """Milliseconds from the begin of each request that was answered OK until its frame had come, in their order."""
        arrived: dict[Payload | None, float] = {}
        for connection in self.recorder.history.connections:
            for at, frame in connection.frames:
                arrived.setdefault(Payload.read(frame), at)
        certain = [sent for sent in self.recorder.history.sends if OK in sent.outcomes.values()]
        return sorted((arrived[sent.payload] - sent.start) * 1000 for sent in certain if sent.payload in arrived)


def percentile(sorted_values: Sequence[float], share: float) -> float:
    """The value below which this share of them lies."""
    return sorted_values[min(int(len(sorted_values) * share), len(sorted_values) - 1)]


@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize("weather", ["calm", "faults"])
async def test_steady(weather: str, servers: Servers, backend: Backend, evidence: Evidence) -> None:
    """Nothing is lost, altered or out of order but what its sender was told of; when all is well nothing at all, and
    nothing is late."""
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    env = {"EKBO_SUPPRESS_ACCESS_LOG": "true"}
    async with (
        RedisServer.running() as redis,
        Cluster.running(servers, ("workers", "workers"), redis, env=env) as cluster,
    ):
        steady = Steady(cluster)
        faults = Faults(cluster, steady.recorder, random.Random(SEED)) if weather == "faults" else None
        await steady.run(faults, cluster)
    history = steady.recorder.history
    problems = history.problems()
    latencies = steady.latencies()
    p50, p99 = percentile(latencies, 0.5), percentile(latencies, 0.99)
    evidence(Figures(1, len(history.sends), history.lost(), history.duplicated(), latencies[-1] / 1000))
    summary = ", ".join(f"{name}: {count}" for name, count in history.summary().items())
    found = f"{weather}, {CONNECTIONS} connections, {SECONDS:g} s: {summary}, unexplained: {len(problems)}"
    found += f", p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {latencies[-1]:.1f} ms"
    if faults:
        found += f", faults (seed {SEED}): {dict(sorted(faults.counts.items()))}"
    print(f"\n{found}")
    assert not problems, "\n".join([found, *problems[:200]])
    assert len(history.sends) >= 0.9 * RATE * SECONDS, found
    if not faults:
        assert history.summary()["OK"] == len(history.sends), found
        assert len(history.connections) == CONNECTIONS, found
        assert p99 <= P99, found
