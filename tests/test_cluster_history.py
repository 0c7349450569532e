"""Random runs of real clusters under faults, judged by the history checker: nothing may be left unexplained.

`make history` is the long form: HISTORY_SECONDS for each set-up, HISTORY_SEED to repeat a run's choices.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Sequence

import pytest

from tests.backend import Backend
from tests.cluster import Cluster, Node
from tests.evidence import Evidence, Figures
from tests.fault_injection import Faults
from tests.history import OK, Sent
from tests.recording import Listener, Recorder, Sender
from tests.redis_servers import RedisServer
from tests.servers import Servers

pytestmark = pytest.mark.usefixtures("clean_logs")

SECONDS = float(os.environ.get("HISTORY_SECONDS", "4"))  # of faults, for each set-up
SEED = os.environ.get("HISTORY_SEED", "1")

CALM = 1.0  # seconds without faults at the beginning
BACK = 15.0  # seconds within which every session must be reached from every node, once all faults are over
KEYS = 12
SENDERS = 5

SETUPS = {
    "two nodes of two workers": (("workers", "workers"), "replace"),
    "three nodes": (("uvicorn", "uvicorn", "daphne"), "replace"),
    "join": (("workers", "uvicorn"), "join"),
}


class Run:
    """A cluster, its clients, its senders."""

    def __init__(self, cluster: Cluster, keys: Sequence[str], name: str) -> None:
        self._name = name
        self.cluster = cluster
        self.keys = keys
        self.recorder = Recorder()
        self.faults = Faults(cluster, self.recorder, self.random("faults"))
        self.over = False

    def random(self, who: str) -> random.Random:
        """The choices of one of those that take part, the same for the same seed."""
        return random.Random(f"{SEED} {self._name} {who}")

    async def keep(self, key: str) -> Listener:
        """Be connected as `key`, most of the time, now here, now there, sometimes twice. Ends connected."""
        rng = self.random(f"keep {key}")
        held: list[Listener] = []
        while not self.over:
            if listener := await self.recorder.connect(rng.choice(self.cluster.nodes), key):
                held.append(listener)
            await asyncio.sleep(rng.expovariate(1 / 0.8))
            if rng.random() < 0.5:
                for listener in held:
                    await listener.leave(politely=rng.random() < 0.5)
                await asyncio.sleep(rng.choice((0.0, 0.0, 0.3)))
            held = [listener for listener in held if listener.open]
        async with asyncio.timeout(BACK):
            while True:
                listener = await self.recorder.connect(rng.choice(self.cluster.nodes), key)
                if listener:
                    return listener
                await asyncio.sleep(0.2)

    async def push(self, sender: Sender) -> None:
        """Send all the time, to anybody, at any node."""
        rng = self.random(f"push {sender.name}")
        while not self.over:
            keys = rng.sample(self.keys, rng.choice((1, 1, 1, 2, 5)))
            await sender.send(rng.choice(self.cluster.nodes), *keys)
            await asyncio.sleep(rng.uniform(0, 0.03))
        sender.end()

    async def reach(self, listener: Listener, node: Node) -> None:
        """Send from a node until the session has got it; each try counts for the checker, too."""
        key = listener.connection.key
        sender = self.recorder.sender(f"end-{node.name}-{key}")
        last: Sent | None = None
        try:
            async with asyncio.timeout(BACK):
                while True:
                    last = await sender.send(node, key)
                    if last.outcomes[key] == OK:
                        break
                    await asyncio.sleep(0.2)
                await listener.wait_for(last.payload)
        except TimeoutError:
            raise AssertionError(f"{key} can't be reached from {node.name}: {last}") from None
        finally:
            sender.end()

    async def run(self) -> None:
        """All of it."""
        async with asyncio.TaskGroup() as group:
            keeping = [group.create_task(self.keep(key)) for key in self.keys]
            for number in range(SENDERS):
                group.create_task(self.push(self.recorder.sender(f"s{number}")))
            await asyncio.sleep(CALM)
            await self.faults.run(SECONDS)
            await self.cluster.all_ready()
            self.over = True
        async with asyncio.TaskGroup() as group:
            for task in keeping:
                for node in self.cluster.nodes:
                    group.create_task(self.reach(task.result(), node))
        await self.recorder.end()

    def summary(self) -> str:
        """What happened."""
        counts = {**self.recorder.history.summary(), "faults": dict(sorted(self.faults.counts.items()))}
        return ", ".join(f"{name}: {count}" for name, count in counts.items())


@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize("setup", SETUPS)
async def test_history(
    setup: str, servers: Servers, backend: Backend, fresh: Callable[[str], str], evidence: Evidence
) -> None:
    """Each frame at the right session, once, in order, and as its sender was told; and all are well in the end."""
    kinds, policy = SETUPS[setup]
    env = {"EKBO_DUPLICATE_SESSION": policy, "EKBO_SUPPRESS_ACCESS_LOG": "true"}
    async with RedisServer.running() as redis, Cluster.running(servers, kinds, redis, env=env) as cluster:
        run = Run(cluster, [fresh("h") for _ in range(KEYS)], setup)
        run.recorder.history.join = policy == "join"
        await run.run()
    history = run.recorder.history
    problems = history.problems()
    evidence(Figures(run.faults.counts.total(), len(history.sends), history.lost(), history.duplicated()))
    print(f"\nHISTORY_SEED={SEED}, {setup}: {run.summary()}, unexplained: {len(problems)}")
    found = [f"HISTORY_SEED={SEED} HISTORY_SECONDS={SECONDS:g}", run.summary(), *run.faults.log, *problems]
    assert not problems, "\n".join(found[:200])
