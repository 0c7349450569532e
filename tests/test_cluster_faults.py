"""Each fault of Redis that has a promise: what is answered meanwhile, and that all is well again in time.

Whatever happens, nobody is told "session is not found" about a session that is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest
from websockets.asyncio.client import ClientConnection

from proxy.exceptions import ClusterUnreachable, NoAnswer, SessionNotFound
from tests.at_once import at_once
from tests.backend import Backend
from tests.clients import RawWebSocket, Response, client, close, ending, receive, request, send
from tests.cluster import Cluster, Node, is_ready
from tests.evidence import Evidence, Figures
from tests.history import OK as ANSWERED_OK
from tests.history import UNKNOWN
from tests.recording import Recorder
from tests.redis_servers import RedisServer, Sentinels, eventually
from tests.servers import Servers
from tests.vectors_api import OK, STRICT, not_found

pytestmark = pytest.mark.usefixtures("clean_logs")

PAIR = ("uvicorn", "uvicorn")
NO_REQUEST_LONGER = 2.5  # seconds: promised are 2; the rest is for a test machine that has other things to do
RESTARTS = int(os.environ.get("REDIS_RESTARTS", "8"))
CANCELLED = 100  # requests of each of six callers
BACK = 5.0  # seconds from Redis's return until all works again
BACK_FROM_SILENCE = 10.0  # seconds from the death of a connection that nobody is told of
UNSURE = {ClusterUnreachable.text, NoAnswer.text}
"""What may be said of a session that can't be reached."""


def refusal(error: str, *keys: str) -> bytes:
    """The body of a 503."""
    errors = ",".join(f'{{"error":"{error}","session":"{key}"}}' for key in keys)
    return f'{{"errors":[{errors}],"result":"NG"}}\n'.encode()


def errors(response: Response) -> set[str]:
    """The texts in an answer."""
    return {error["error"] for error in response.json().get("errors", [])}


async def timed(pushing: Awaitable[Response]) -> Response:
    """An answer, which must come in time whatever happens."""
    began = time.monotonic()
    response = await pushing
    assert time.monotonic() - began < NO_REQUEST_LONGER
    return response


async def push(node: Node, keys: str, body: bytes = b"hello") -> Response:
    """A /send that is answered in time."""
    return await timed(send(node.server, keys, body))


async def until_ok(node: Node, key: str, within: float, body: bytes = b"back") -> list[set[str]]:
    """Send until it is answered OK, which must be soon; what was answered before."""
    answers = []
    deadline = time.monotonic() + within
    while (response := await push(node, key, body)).body != OK:
        answers.append(errors(response))
        assert answers[-1] <= UNSURE, response
        assert time.monotonic() < deadline, f"{key} is not reached from {node.name} after {within} s: {response}"
        await asyncio.sleep(0.02)
    return answers


@dataclass
class Sessions:
    """A session at each of two nodes; pushes to the far one arrive at the node of the near one."""

    redis: RedisServer
    here: Node
    there: Node
    near_key: str
    far_key: str
    near: ClientConnection
    far: ClientConnection

    @property
    def both(self) -> tuple[Node, Node]:
        return self.here, self.there

    async def all_back(self, within: float = BACK) -> None:
        """Both are reached from both nodes, each of which says that it is ready, within so many seconds."""
        deadline = time.monotonic() + within
        for node in self.both:
            for key, connection in ((self.near_key, self.near), (self.far_key, self.far)):
                await until_ok(node, key, deadline - time.monotonic())
                assert await receive(connection) == "back"
            await eventually(lambda node=node: is_ready(node), "ready", max(deadline - time.monotonic(), 0.1))  # type: ignore[misc]


@contextlib.asynccontextmanager
async def sessions(redis: RedisServer, nodes: Sequence[Node], fresh: Callable[[str], str]) -> AsyncIterator[Sessions]:
    """Connected, and each reached from the other's node."""
    here, there = nodes
    near_key, far_key = fresh("near"), fresh("far")
    async with client(here.server, near_key) as near, client(there.server, far_key) as far:
        found = Sessions(redis, here, there, near_key, far_key, near, far)
        await found.all_back()
        yield found


@contextlib.asynccontextmanager
async def pair(
    servers: Servers, fresh: Callable[[str], str], env: Mapping[str, str] | None = None
) -> AsyncIterator[Sessions]:
    """The same, on a Redis of their own."""
    async with (
        RedisServer.running() as redis,
        Cluster.running(servers, PAIR, redis, env=env) as cluster,
        sessions(redis, cluster.nodes, fresh) as found,
    ):
        yield found


async def not_ready(node: Node, *words: str) -> None:
    """/ready says 503 and why, and /ping is well."""

    async def unready() -> bool:
        return (await node.ready()).status == 503

    await eventually(unready, f"{node.name} to say that it isn't ready", 5)
    response = await node.ready()
    assert set(response.json()) == {"errors", "result"}
    assert response.json()["result"] == "NG"
    (error,) = response.json()["errors"]
    assert all(word in error["error"] for word in words), error
    assert (await request(node.server, "GET", "/ping")).status == 200


async def test_redis_down(servers: Servers, backend: Backend, fresh: Callable[[str], str]) -> None:
    """Sockets stay, the process's own sessions are served, nothing is said of others, and all comes back."""
    async with pair(servers, fresh) as found:
        here, near_key, far_key, unknown = found.here, found.near_key, found.far_key, fresh("x")
        await found.redis.kill()
        await not_ready(here, "Redis", str(here.wire.port))
        await not_ready(found.there, "Redis", str(found.there.wire.port))
        assert (await push(here, near_key, b"local")).body == OK
        assert await receive(found.near) == "local"
        for key in (far_key, unknown):
            response = await push(here, key)
            assert (response.status, response.body) == (503, refusal(ClusterUnreachable.text, key))
        response = await push(here, f"{far_key},{unknown}")
        assert (response.status, response.body) == (503, refusal(ClusterUnreachable.text, far_key, unknown))
        # One was delivered, so the answer is about the other one only.
        response = await push(here, f"{near_key},{far_key}", b"to both")
        assert (response.status, response.json()["result"]) == (200, "OK")
        assert errors(response) == {ClusterUnreachable.text}
        assert await receive(found.near) == "to both"
        response = await timed(close(here.server, far_key))
        assert (response.status, response.body) == (503, refusal(ClusterUnreachable.text, far_key))
        # Nobody can say whether the key isn't connected elsewhere, so the backend needn't be asked.
        refused = fresh("r")
        assert (await timed(handshake(here, refused))).status == 503
        assert not backend.seen("/connect", refused)
        await found.redis.start()
        await found.all_back()
        assert not backend.seen("/close", near_key) + backend.seen("/close", far_key)


async def test_redis_down_with_strict_broadcast(servers: Servers, fresh: Callable[[str], str]) -> None:
    """Whether all are there can't be known, so nobody gets anything; with local sessions alone it can."""
    async with pair(servers, fresh, STRICT) as found:
        await found.redis.kill()
        await not_ready(found.here, "Redis")
        both = f"{found.near_key},{found.far_key}"
        response = await push(found.here, both, b"nobody gets this")
        assert (response.status, response.json()["result"]) == (503, "NG")
        assert errors(response) == {ClusterUnreachable.text}
        assert (await push(found.here, found.near_key, b"local")).body == OK
        assert await receive(found.near) == "local"
        await found.redis.start()
        await found.all_back()


async def test_redis_hangs(servers: Servers, fresh: Callable[[str], str], evidence: Evidence) -> None:
    """No request waits for longer than 2 s, and what wasn't answered isn't delivered seconds later."""
    async with pair(servers, fresh) as found:
        found.redis.pause()
        began = time.monotonic()
        turns, slowest = 0, 0.0
        while (turn := time.monotonic()) - began < 3:
            local, remote, unknown, ready, connect = await asyncio.gather(
                push(found.here, found.near_key, b"local"),
                push(found.here, found.far_key, b"late"),
                push(found.here, fresh("x")),
                timed(found.here.ready()),
                timed(handshake(found.here, fresh("r"))),
            )
            turns, slowest = turns + 1, max(slowest, time.monotonic() - turn)
            evidence(Figures(1, 5 * turns, worst=slowest))
            assert local.body == OK
            assert await receive(found.near) == "local"
            for response in (remote, unknown):
                assert response.status == 503
                assert errors(response) <= UNSURE
            assert connect.status == 503
        assert ready.status == 503
        found.redis.resume()
        await found.all_back()  # reads on both connections: nothing but what is sent now has come


async def handshake(node: Node, key: str) -> Response:
    """What a client that wants in is answered."""
    async with RawWebSocket.open(node.server) as raw:
        return await raw.handshake(f"/connect?key={key}")


@pytest.mark.timeout(60 + RESTARTS * 8)
async def test_redis_restarted_under_load(servers: Servers, fresh: Callable[[str], str], evidence: Evidence) -> None:
    """Killed and started again, many times, while everybody sends to everybody."""
    keys = [fresh("l") for _ in range(6)]
    recorder = Recorder()
    over = False
    slowest = 0.0

    async with RedisServer.running() as redis, Cluster.running(servers, ("workers", "workers"), redis) as cluster:
        listeners = [await recorder.connect(cluster.nodes[n % 2], key) for n, key in enumerate(keys)]
        assert all(listeners)

        async def load(number: int) -> None:
            sender = recorder.sender(f"s{number}")
            for turn in range(100_000):
                if over:
                    break
                await sender.send(cluster.nodes[turn % 2], keys[(number + turn) % len(keys)])
                await asyncio.sleep(0.005)
            sender.end()

        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(load(number))
            for restart in range(RESTARTS):
                await asyncio.sleep(0.3)
                await redis.kill()
                await asyncio.sleep(0.1 * (restart % 3))
                await redis.start()
                slowest = max(slowest, await cluster.all_ready(BACK))
            await asyncio.sleep(0.5)
            over = True
        last = recorder.sender("last")
        for key, listener in zip(keys, listeners, strict=True):
            for node in cluster.nodes:
                sent = await last.send(node, key)
                assert sent.outcomes == {key: "OK"}
                assert listener
                async with asyncio.timeout(5):
                    await listener.wait_for(sent.payload)
        last.end()
        await recorder.end()
    history = recorder.history
    evidence(Figures(RESTARTS, len(history.sends), history.lost(), history.duplicated(), slowest))
    assert slowest < BACK
    assert not history.problems()
    summary = history.summary()
    assert summary["OK"] > 100, summary
    assert summary["connections: left"] == len(keys), summary


async def test_cancelled_requests(servers: Servers, fresh: Callable[[str], str], evidence: Evidence) -> None:
    """Callers that hang up at a random moment: no frame at a wrong session, twice, out of order, or unexplained."""
    recorder = Recorder()
    keys = [fresh("c") for _ in range(6)]
    async with RedisServer.running() as redis, Cluster.running(servers, ("workers", "uvicorn"), redis) as cluster:
        for number, key in enumerate(keys):
            assert await recorder.connect(cluster.nodes[number % 2], key)

        async def hang_up(number: int) -> None:
            rng, sender = random.Random(number), recorder.sender(f"s{number}")
            for _ in range(CANCELLED):
                to = rng.sample(keys, rng.choice((1, 1, 3)))
                await sender.send(rng.choice(cluster.nodes), *to, limit=rng.choice((8.0, rng.uniform(0, 0.004))))
            sender.end()

        await asyncio.gather(*(hang_up(number) for number in range(6)))
        await asyncio.sleep(0.5)  # for what comes late
        await recorder.end()
    history = recorder.history
    evidence(Figures(1, len(history.sends), history.lost(), history.duplicated()))
    assert not history.problems()
    summary = history.summary()
    assert min(summary[UNKNOWN], summary[ANSWERED_OK]) > 50, summary


async def test_connection_reset(servers: Servers, fresh: Callable[[str], str]) -> None:
    """A node whose connection was reset is back at once, and until then nobody says that its sessions aren't there."""
    async with pair(servers, fresh) as found:
        for _ in range(5):
            for node in found.both:
                node.wire.cut()
                await until_ok(found.here, found.far_key, BACK)
                assert await receive(found.far) == "back"
                await until_ok(found.there, found.near_key, BACK)
                assert await receive(found.near) == "back"
        await found.redis.execute("CLIENT", "KILL", "TYPE", "pubsub")
        await found.all_back()


@at_once(direction=["both", "back"])
async def test_subscription_silently_dead(
    direction: str, servers: Servers, fresh: Callable[[str], str], evidence: Evidence
) -> None:
    """Nothing comes through any more and nobody says so: found out, and resubscribed, within 10 s."""
    async with pair(servers, fresh) as found:
        if direction == "both":
            found.there.wire.freeze()
        else:
            found.there.wire.freeze(there=False)
        began = time.monotonic()
        answers = await until_ok(found.here, found.far_key, BACK_FROM_SILENCE)
        evidence(Figures(1, len(answers) + 1, worst=time.monotonic() - began))
        assert {NoAnswer.text} in answers
        # What was in the dead connection comes no more.
        assert await receive(found.far) == "back"
        await found.all_back()
        assert "lost: " in found.there.server.output()
        assert "connected again" in found.there.server.output()


async def test_output_buffer_overrun(servers: Servers, fresh: Callable[[str], str]) -> None:
    """Redis drops a subscriber for which too much waits: its sessions stay and are reached again."""
    async with pair(servers, fresh) as found:
        await found.redis.execute("CONFIG", "SET", "client-output-buffer-limit", "pubsub 32768 0 0")
        response = await push(found.here, found.far_key, b"x" * 500_000)
        assert errors(response) == {NoAnswer.text}
        assert await until_ok(found.here, found.far_key, BACK) is not None
        assert await receive(found.far) == "back"
        await found.redis.execute("CONFIG", "SET", "client-output-buffer-limit", "pubsub 33554432 8388608 60")
        await found.all_back()
        assert (await push(found.here, found.far_key, b"x" * 500_000)).body == OK
        assert await receive(found.far) == "x" * 500_000


async def test_slow_network_to_redis(servers: Servers, fresh: Callable[[str], str]) -> None:
    """With 100 ms to Redis a session is reached, from the other node, as soon as its client has the 101."""
    async with RedisServer.running() as redis, Cluster.running(servers, PAIR, redis) as cluster:
        here, there = cluster.nodes
        there.wire.latency = here.wire.latency = 0.1
        for _ in range(2):
            key = fresh("s")
            async with client(there.server, key) as connection:
                assert (await push(here, key)).body == OK
                assert await receive(connection) == "hello"
                async with client(here.server, key) as newer:
                    assert (await push(there, key, b"to the newer")).body == OK
                    assert await receive(newer) == "to the newer"
                    end = await ending(connection)
                    assert (end.code, end.frames) == (4001, [])


async def test_key_connects_elsewhere_while_its_node_is_cut_off(
    servers: Servers, backend: Backend, fresh: Callable[[str], str]
) -> None:
    """The older connection lives on at its node until that can be told; then the newer one alone owns the key."""
    async with RedisServer.running() as redis, Cluster.running(servers, PAIR, redis) as cluster:
        here, there = cluster.nodes
        key = fresh("k")
        async with client(there.server, key) as old:
            there.wire.stall()
            assert errors(await push(there, fresh("x"))) <= UNSURE  # which is how it finds out, else by its probe
            await not_ready(there, "Redis")
            async with client(here.server, key) as new:
                assert (await push(here, key, b"one")).body == OK
                assert await receive(new) == "one"
                assert (await push(there, key, b"two")).body == OK
                assert await receive(old) == "two"
                there.wire.resume()
                end = await ending(old, BACK_FROM_SILENCE)
                assert (end.code, end.reason, end.frames) == (4001, "replaced", [])
                for node in cluster.nodes:
                    await until_ok(node, key, BACK)
                    assert await receive(new) == "back"
                (event,) = await backend.wait("/close", key)
                assert event.one("X-Kuiperbelt-Close-Reason") == "replaced"


async def test_key_connects_elsewhere_while_its_node_is_stopped(
    servers: Servers, backend: Backend, fresh: Callable[[str], str]
) -> None:
    """The older connection's process stands still, and gives the key up as soon as it goes on."""
    async with RedisServer.running() as redis, Cluster.running(servers, PAIR, redis) as cluster:
        here, there = cluster.nodes
        key = fresh("k")
        async with client(there.server, key) as old:
            # The nodes know how long messages take between them.
            await until_ok(here, key, BACK)
            assert await receive(old) == "back"
            there.server.pause()
            async with client(here.server, key) as new:
                await asyncio.sleep(1.5)  # so that it may hold the news for too old
                there.server.resume()
                end = await ending(old)
                assert (end.code, end.reason, end.frames) == (4001, "replaced", [])
                for node in cluster.nodes:
                    await until_ok(node, key, BACK)
                    assert await receive(new) == "back"
                (event,) = await backend.wait("/close", key)
                assert event.one("X-Kuiperbelt-Close-Reason") == "replaced"


async def test_node_killed(servers: Servers, fresh: Callable[[str], str]) -> None:
    """Its sessions are nowhere, which nobody can be sure of at once; who connects anew is reached at once."""
    async with pair(servers, fresh) as found:
        await found.there.server.kill()
        response = await push(found.here, found.far_key)
        assert errors(response) <= UNSURE
        async with client(found.here.server, found.far_key) as again:
            assert (await push(found.here, found.far_key)).body == OK
            assert await receive(again) == "hello"
            await found.there.server.restart()
            await until_ok(found.there, found.far_key, BACK)
            assert await receive(again) == "back"


async def test_node_ends(servers: Servers, fresh: Callable[[str], str]) -> None:
    """A node that ends on purpose says so: its sessions are not found from then on."""
    async with pair(servers, fresh) as found:
        assert await found.there.server.stop() == 0
        response = await push(found.here, found.far_key)
        assert (response.status, response.body) == (200, not_found(found.far_key))


async def test_node_stopped(servers: Servers, fresh: Callable[[str], str]) -> None:
    """A process that stands still is waited for no longer than reply_timeout; what it finds later is dropped."""
    async with pair(servers, fresh) as found:
        found.there.server.pause()
        response = await push(found.here, found.far_key, b"late")
        assert (response.status, errors(response)) == (200, {NoAnswer.text})
        assert (await push(found.here, found.near_key)).body == OK
        assert await receive(found.near) == "hello"
        await asyncio.sleep(1.5)
        found.there.server.resume()
        await found.all_back(BACK_FROM_SILENCE)  # and reads nothing else


async def test_large_frames_for_a_node_that_is_stopped(servers: Servers, fresh: Callable[[str], str]) -> None:
    """More than may be under way: no request waits for long, and small ones to another node not at all."""
    async with (
        RedisServer.running() as redis,
        Cluster.running(servers, ("uvicorn",) * 3, redis) as cluster,
        contextlib.AsyncExitStack() as stack,
    ):
        here, there, stopped = cluster.nodes
        keys = [fresh("s") for _ in range(12)]
        for key in keys:
            await stack.enter_async_context(client(stopped.server, key))
        near = fresh("n")
        connection = await stack.enter_async_context(client(there.server, near))
        await until_ok(here, near, BACK)
        assert await receive(connection) == "back"
        stopped.server.pause()
        large = [asyncio.create_task(push(here, ",".join(keys), b"x" * 1_000_000)) for _ in range(3)]
        sent = 0
        while not all(task.done() for task in large):
            began = time.monotonic()
            assert (await push(here, near, b"%d" % sent)).body == OK
            assert time.monotonic() - began < 0.5
            sent += 1
            await asyncio.sleep(0.05)
        answers = [await task for task in large]
        assert {response.status for response in answers} <= {200, 503}
        assert all(len(response.json()["errors"]) == len(keys) and errors(response) <= UNSURE for response in answers)
        assert [await receive(connection) for _ in range(sent)] == [str(number) for number in range(sent)]
        stopped.server.resume()
        await cluster.all_ready()


async def test_one_of_two_shards_down(servers: Servers, fresh: Callable[[str], str]) -> None:
    """The keys of the other one go on, everywhere; those of the lost one come back with it."""
    async with (
        RedisServer.running() as one,
        RedisServer.running() as two,
        Cluster.running(servers, PAIR, one, two) as cluster,
        contextlib.AsyncExitStack() as stack,
    ):
        here, there = cluster.nodes
        connections: dict[str, ClientConnection] = {}
        # Names of many forms: those that differ in their last letters only may all go to one shard.
        for key in [fresh("k" * number) for number in range(1, 17)]:
            connections[key] = await stack.enter_async_context(client(there.server, key))
        on_one, on_two = [await keys_of(shard, connections) for shard in (one, two)]
        assert set(on_one) | set(on_two) == set(connections)
        assert on_one
        assert on_two
        assert not set(on_one) & set(on_two)
        await two.kill()
        await not_ready(here, "Redis", str(here.wires[1].port))
        for key in on_one:
            assert (await push(here, key)).body == OK
            assert await receive(connections[key]) == "hello"
        for key in on_two:
            response = await push(here, key)
            assert (response.status, response.body) == (503, refusal(ClusterUnreachable.text, key))
        response = await push(here, f"{on_one[0]},{on_two[0]}")
        assert (response.status, errors(response)) == (200, {ClusterUnreachable.text})
        assert await receive(connections[on_one[0]]) == "hello"
        await two.start()
        for key in on_two:
            await until_ok(here, key, BACK)
            assert await receive(connections[key]) == "back"
        await cluster.all_ready(BACK)


async def keys_of(shard: RedisServer, keys: dict[str, ClientConnection]) -> list[str]:
    """Which of the keys have a channel on this shard."""
    channels = await shard.execute("PUBSUB", "CHANNELS")
    return [key for key in keys if any(channel.endswith(f".{key}") for channel in channels)]


@contextlib.asynccontextmanager
async def load(recorder: Recorder, nodes: Sequence[Node], fresh: Callable[[str], str]) -> AsyncIterator[None]:
    """Four sessions at each node, and senders that send to them from everywhere; in the end the checker is asked."""
    keys = [fresh("load") for _ in range(8)]
    for number, key in enumerate(keys):
        assert await recorder.connect(nodes[number % len(nodes)], key)
    over = asyncio.Event()

    async def push_on(number: int) -> None:
        rng, sender = random.Random(number), recorder.sender(f"s{number}")
        while not over.is_set():
            await sender.send(rng.choice(nodes), *rng.sample(keys, rng.choice((1, 3))))
            await asyncio.sleep(0.01)
        sender.end()

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(push_on(number))
        yield
        over.set()
    await recorder.end()
    assert not recorder.history.problems()


async def test_sentinel_fail_over(servers: Servers, fresh: Callable[[str], str], evidence: Evidence) -> None:
    """The master dies under load, a replica is promoted: within 10 s of that all works again, by itself.

    User, password and database come from a URL whose place doesn't count.
    """
    recorder = Recorder()
    async with Sentinels.running(password="hunter2") as group:
        env = servers.cluster_env() | {
            "EKBO_REDIS_URL": "redis://:hunter2@nowhere.invalid/2",
            "EKBO_REDIS_SENTINELS": group.addresses,
            "EKBO_REDIS_MASTER": group.name,
        }
        here, there = [Node(name, await servers.start("uvicorn", env), []) for name in ("here", "there")]
        async with sessions(group.servers[0], (here, there), fresh) as found, load(recorder, (here, there), fresh):
            first = await group.master()
            await first.kill()
            await not_ready(here, "Redis")
            assert (await push(here, found.near_key, b"local")).body == OK
            assert await receive(found.near) == "local"
            response = await push(here, found.far_key)
            assert (response.status, response.body) == (503, refusal(ClusterUnreachable.text, found.far_key))
            await group.agreed(other_than=first)
            promoted = time.monotonic()
            await found.all_back(10.0)
            worst = time.monotonic() - promoted
            await asyncio.sleep(0.5)
        history = recorder.history
        last = max(history.sends, key=lambda sent: sent.start)  # one from before may still have waited for its answer
        assert set(last.outcomes.values()) == {ANSWERED_OK}
        assert {ANSWERED_OK, ClusterUnreachable.text} <= set(history.summary())
        evidence(Figures(1, len(history.sends), history.lost(), history.duplicated(), worst))
        for node in (here, there):
            await node.server.stop()


async def test_a_master_that_the_sentinels_have_given_up(servers: Servers, key: str) -> None:
    """Cut off from them, it doesn't know of the other and serves whom it reaches, who leave it within 10 s."""
    async with Sentinels.running(replicas=0, count=1) as group, RedisServer.running() as other:
        env = {"EKBO_REDIS_URL": "", "EKBO_REDIS_SENTINELS": group.addresses, "EKBO_REDIS_MASTER": group.name}
        server = await servers.start("uvicorn", servers.cluster_env() | env)
        async with client(server, key) as connection:
            old, (sentinel,) = group.servers[0], group.sentinels
            assert await keys_of(old, {key: connection}) == [key]
            await sentinel.execute("SENTINEL", "REMOVE", group.name)
            await sentinel.execute("SENTINEL", "MONITOR", group.name, "127.0.0.1", str(other.port), "1")

            async def moved() -> bool:
                return await keys_of(other, {key: connection}) == [key]

            await eventually(moved, "the node to go to the new master", 10.0)
            assert await keys_of(old, {key: connection}) == []
        await server.stop()


async def test_no_false_not_found_is_checked_for(servers: Servers, fresh: Callable[[str], str]) -> None:
    """The tests above would notice: an unknown key is "not found" as long as all is well."""
    async with RedisServer.running() as redis, Cluster.running(servers, PAIR, redis) as cluster:
        key = fresh("x")
        assert errors(await push(cluster.nodes[0], key)) == {SessionNotFound.text}
        with pytest.raises(AssertionError, match="not found"):
            await until_ok(cluster.nodes[0], key, 1)
