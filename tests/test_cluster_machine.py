"""A real cluster against a plain model: whatever is done in whatever order, each answer is the model's.

Hypothesis chooses the steps. One thing is done at a time, and its consequences are waited for, so the model knows all.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from proxy.exceptions import ClusterUnreachable, SessionNotFound
from tests.backend import Answer, Request, welcome
from tests.clients import RawWebSocket, close
from tests.cluster import Cluster, Node
from tests.fuzzing import World
from tests.history import OK
from tests.recording import Listener, Recorder
from tests.redis_servers import RedisServer, eventually
from tests.test_signatures import NEW, OLD, is_signed
from tests.vectors_api import OK as OK_BODY
from tests.vectors_api import not_found

KINDS = ("uvicorn", "uvicorn", "daphne")
KEYS = 3
SOON = 5.0  # seconds within which something comes that is under way already
FORGOTTEN = 16.0  # seconds after which nobody expects a killed process to come back
EXIT_LIMIT = 6.0  # seconds that a process takes to its end, without a drain window
AT_ONCE = 2  # connects that a node's backend gets at once
MACHINE_STEPS = int(os.environ.get("MACHINE_STEPS", "0"))
"""That all three policies take together; 0: a few."""
EXAMPLES = 4
STEPS = 100 if MACHINE_STEPS else 14  # of an example
RESTARTS = 4 if MACHINE_STEPS else 2  # of nodes, in an example

BY_OPERATOR = [("X-Kuiperbelt-Close-Callback", "true"), ("X-Kuiperbelt-Close-Code", "4000")]

nodes = st.integers(0, len(KINDS) - 1)
keys = st.integers(0, KEYS - 1)


class Nodes(World):
    """The cluster that all examples use, each with keys of its own."""

    def __init__(self, logs: Path, policy: str) -> None:
        super().__init__(logs)
        self._stack = contextlib.AsyncExitStack()
        self.policy = policy
        self.numbers = itertools.count()
        self.cluster: Cluster
        self.killed = -FORGOTTEN
        self.steps = 0
        self.verified = 0
        """Callbacks whose signatures were looked at."""

    async def start(self) -> None:
        """Start everything."""
        await super().start()
        redis = await self._stack.enter_async_context(RedisServer.running())
        self.servers.redis_url = redis.url
        env = {
            "EKBO_DUPLICATE_SESSION": self.policy,
            "EKBO_CALLBACK_SIGNING_KEYS": f"{OLD},{NEW}",
            "EKBO_CONNECT_CALLBACK_LIMIT": str(AT_ONCE),
            "EKBO_CALLBACK_QUEUE_SIZE": "0",
        }
        self.cluster = await self._stack.enter_async_context(Cluster.running(self.servers, KINDS, redis, env=env))

    async def end(self) -> None:
        """End everything; nothing may have been wrong in the logs."""
        await self._stack.aclose()
        self.verify()
        await super().end()

    def verify(self) -> None:
        """Every callback is signed by both keys; what was looked at is forgotten."""
        for request in self.backend.requests:
            assert is_signed(request, OLD), request
            assert is_signed(request, NEW), request
            self.verified += 1
        self.backend.requests.clear()


class Machine(RuleBasedStateMachine):
    """The model: `there` has, for each key, the connections that should get what is sent to it."""

    def __init__(self, world: Nodes) -> None:
        super().__init__()
        self.world = world
        self.recorder = Recorder()
        self.recorder.history.join = world.policy == "join"
        self.sender = self.recorder.sender("m")
        run = next(world.numbers)
        self.names = [f"{world.policy}{run}.{number}" for number in range(KEYS)]
        self.there: dict[str, list[Listener]] = {name: [] for name in self.names}
        self.ended_by_backend = 0
        self.restarts = 0

    def node(self, number: int) -> Node:
        return self.world.cluster.nodes[number]

    # What is done

    @initialize(places=st.tuples(*[nodes] * KEYS))
    def connect_all(self, places: tuple[int, ...]) -> None:
        for key, at in enumerate(places):
            self.connect(key, at)

    @rule(key=keys, at=nodes)
    def connect(self, key: int, at: int) -> None:
        """The newest owns the key, or is refused, or joins."""
        name = self.names[key]
        before = list(self.there[name])
        listener = self.world.do(self.recorder.connect(self.node(at), name))
        if self.world.policy == "reject" and before:
            assert listener is None
            # Daphne can't send a denial response.
            assert self.recorder.history.connections[-1].status == (403 if KINDS[at] == "daphne" else 409)
            self.world.do(self.told(name))
            return
        assert listener is not None, self.recorder.history.connections[-1]
        self.there[name].append(listener)
        if self.world.policy == "replace":
            self.there[name] = [listener]
            for old in before:
                self.world.do(self.ended(old, "4001"))
            self.world.do(self.told(name))

    @rule(key=keys, at=nodes)
    def send(self, key: int, at: int) -> None:
        self.world.do(self.push(at, self.names[key]))

    @rule(at=nodes)
    def send_to_all(self, at: int) -> None:
        self.world.do(self.push(at, *self.names))

    @rule(key=keys, at=nodes, by_backend=st.booleans())
    def close(self, key: int, at: int, by_backend: bool) -> None:
        """The backend ends all connections of the key; or an operator, and the backend is told of each."""
        name = self.names[key]
        before, self.there[name] = self.there[name], []
        response = self.world.do(close(self.node(at).server, name, b"", *([] if by_backend else BY_OPERATOR)))
        if before:
            assert (response.status, response.body) == (200, OK_BODY)
        else:
            assert response.body == not_found(name) or self.nobody_is_sure(response.body)
        for listener in before:
            self.world.do(self.ended(listener, "1000" if by_backend else "4000"))
        if by_backend:
            self.ended_by_backend += len(before)
        elif before:
            self.world.do(self.told(name))
            told = self.world.backend.seen("/close", name)[-len(before) :]
            assert {request.one("X-Kuiperbelt-Close-Reason") for request in told} == {"operator"}

    @rule(key=keys, politely=st.booleans())
    def disconnect(self, key: int, politely: bool) -> None:
        """A client leaves; the backend is told when the session is gone."""
        name = self.names[key]
        if self.there[name]:
            self.world.do(self.there[name].pop().leave(politely))
            self.world.do(self.told(name))

    @rule(key=keys, at=nodes)
    def crowd(self, key: int, at: int) -> None:
        """A client comes when the backend has as many connects as it takes: it isn't asked, and all stays as it is."""
        self.world.do(self.refused(self.names[key], at))

    @precondition(lambda self: self.restarts < RESTARTS)
    @rule(at=nodes)
    def kill(self, at: int) -> None:
        """A node dies with all its sessions, and starts anew."""
        node = self.node(at)
        self.restarts += 1
        self.world.do(node.server.kill())
        self.world.killed = time.monotonic()
        self.world.do(self.lose(node, "lost"))
        self.world.do(node.server.restart())

    @precondition(lambda self: self.restarts < RESTARTS)
    @rule(at=nodes, other=st.integers(1, len(KINDS) - 1))
    def drain(self, at: int, other: int) -> None:
        """A deploy: the clients are told, the backend hears of each end, and they come back at another node."""
        node = self.node(at)
        other = (at + other) % len(KINDS)
        self.restarts += 1
        node.server.signal(signal.SIGTERM)
        lost = self.world.do(self.lose(node, "4012" if node.server.kind == "daphne" else "1012"))
        assert self.world.do(asyncio.wait_for(node.server.process.wait(), EXIT_LIMIT)) == 0
        for name, count in lost.items():
            self.world.do(self.told(name))
            told = self.world.backend.seen("/close", name)[-count:]
            assert {request.one("X-Kuiperbelt-Close-Reason") for request in told} == {"shutdown"}
            self.connect(self.names.index(name), other)
        self.world.do(self.push(other, *self.names))
        self.world.do(node.server.restart())

    # What must come of it

    async def push(self, at: int, *names: str) -> None:
        """Answered as the model says, and received by whom it says."""
        sent = await self.sender.send(self.node(at), *names)
        self.sender.end()  # until the next step nobody would notice that the server closed the connection
        for name in names:
            if self.there[name]:
                assert sent.outcomes[name] == OK, (sent, name)
                for listener in self.there[name]:
                    async with asyncio.timeout(SOON):
                        await listener.wait_for(sent.payload)
            elif sent.outcomes[name] != SessionNotFound.text:
                assert self.nobody_is_sure(sent.outcomes[name].encode()), (sent, name)

    async def lose(self, node: Node, how: str) -> dict[str, int]:
        """A node ends, and all its sessions with it; how many of which key."""
        lost: dict[str, int] = {}
        for name, before in self.there.items():
            self.there[name] = [listener for listener in before if listener.connection.node != node.name]
            for listener in before:
                if listener.connection.node == node.name:
                    await self.ended(listener, how)
                    lost[name] = lost.get(name, 0) + 1
        return lost

    async def refused(self, name: str, at: int) -> None:
        """What a client gets that comes when there are too many, who all get in."""
        node, backend, gate = self.node(at), self.world.backend, asyncio.Event()

        async def in_time(request: Request) -> Answer:
            await gate.wait()
            return welcome(request.key)

        others = [f"{name}.{next(self.world.numbers)}" for _ in range(AT_ONCE)]
        for other in others:
            backend.on("/connect", other, in_time)
        connecting = [asyncio.create_task(self.recorder.connect(node, other)) for other in others]
        await backend.until(lambda: all(backend.seen("/connect", other) for other in others), "the crowd", SOON)
        asked = len(backend.seen("/connect", name))
        async with RawWebSocket.open(node.server) as raw:
            response = await raw.handshake(f"/connect?key={name}")
        if node.server.kind == "daphne":
            assert response.status == 403
        else:
            assert (response.status, response.one("Retry-After")) == (503, "1"), response
        assert len(backend.seen("/connect", name)) == asked
        gate.set()
        for other, listener in zip(others, await asyncio.gather(*connecting), strict=True):
            assert listener
            await listener.leave()
            await backend.wait("/close", other, 1, SOON)

    def nobody_is_sure(self, said: bytes) -> bool:
        """Of a key that nobody has, that may be said for a while after a process was killed."""
        return ClusterUnreachable.text.encode() in said and time.monotonic() < self.world.killed + FORGOTTEN

    async def ended(self, listener: Listener, how: str) -> None:
        async def has() -> bool:
            return not listener.open

        await eventually(has, f"the end of {listener.connection}", SOON)
        assert listener.connection.end == how

    async def told(self, name: str) -> None:
        """The backend knows the end of each connection of a key that it didn't ask for, and that no kill -9 kept."""
        ended = [one for one in self.recorder.history.connections if one.key == name and one.end in ("1000", "lost")]
        asked = len(self.world.backend.seen("/connect", name))
        count = asked - len(ended) - len(self.there[name])
        await self.world.backend.wait("/close", name, count, SOON)

    @invariant()
    def who_is_there_stays(self) -> None:
        self.world.steps += 1
        for listeners in self.there.values():
            assert all(listener.open for listener in listeners)

    def teardown(self) -> None:
        """From every node every key is as the model says; each end was told once; and the checker has no question."""
        try:
            for at in range(len(KINDS)):
                self.world.do(self.push(at, *self.names))
        finally:
            self.world.do(self.recorder.end())
        self.there = {name: [] for name in self.names}
        self.world.do(self.every_end_is_told())
        assert not self.recorder.history.problems()
        self.world.verify()

    async def every_end_is_told(self) -> None:
        ended = [one for one in self.recorder.history.connections if one.end == "1000"]
        assert len(ended) == self.ended_by_backend
        await asyncio.sleep(0.1)  # for events too many
        for name in self.names:
            await self.told(name)


POLICIES = ["replace", "reject", "join"]


@pytest.mark.timeout(180 + MACHINE_STEPS)
@pytest.mark.parametrize("policy", POLICIES)
def test_machine(policy: str, tmp_path: Path) -> None:
    """What the model says is what happens."""
    with Nodes.running(tmp_path, policy) as world:
        run(world)
        while world.steps < MACHINE_STEPS / len(POLICIES):
            run(world)
    print(f"{policy}: {world.steps} steps, {world.verified} callbacks, all signed")


def run(world: Nodes) -> None:
    """Some examples."""
    run_state_machine_as_test(
        lambda: Machine(world),  # type: ignore[arg-type]  # a class is what it expects, of which it makes instances
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            # Smaller examples would be found in many minutes: of these the steps are few enough to be read.
            phases=(Phase.generate,),
        ),
    )
