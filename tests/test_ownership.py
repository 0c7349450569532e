"""Who owns a key: one connection in the whole cluster, whatever happens at the same time."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.events import Event, send_event
from proxy.exceptions import ClusterUnreachable, SessionNotFound, SessionTaken
from proxy.layers import LocalChannelLayer
from proxy.outcomes import Outcome
from proxy.ownership import Membership
from proxy.protocol import Frame
from tests.layers import layers, make_layer
from tests.network import Wire
from tests.redis_servers import RedisServer, eventually

EVENT = send_event(Frame("hello", 5), 0.0)
GROUP = "session.bob"


class Connection:
    """A connection as far as ownership knows it."""

    numbers = iter(range(10**9))

    def __init__(self, layer: LocalChannelLayer, policy: str) -> None:
        self.events: list[Event] = []
        self.replaced = 0
        name = f"connection-{next(self.numbers):09d}"
        self.membership = Membership(layer, GROUP, name, policy, self.on_event, self.on_replaced)

    def on_event(self, event: Event) -> Outcome:
        self.events.append(event)
        return None

    def on_replaced(self) -> None:
        self.replaced += 1
        self.membership.leave()

    async def join(self) -> "Connection":
        await self.membership.join()
        return self


@pytest.fixture(params=["one process", "three processes"])
async def processes(request: pytest.FixtureRequest, redis: RedisServer) -> AsyncIterator[list[Any]]:
    """Layers to connect at; with one process all three are the same."""
    if request.param == "one process":
        yield [LocalChannelLayer()] * 3
        return
    async with layers(3, redis) as made:
        yield made


async def send(layer: LocalChannelLayer) -> None:
    outcome = layer.request(GROUP, EVENT)
    if outcome:
        await asyncio.wait_for(outcome, 5)


async def test_the_newest_owns_the_key(processes: list[LocalChannelLayer]) -> None:
    older = await Connection(processes[0], "replace").join()
    newer = await Connection(processes[1], "replace").join()
    # When join returns the older one is gone already, so what is sent now can't go there.
    assert (older.replaced, newer.replaced) == (1, 0)
    for layer in processes:
        await send(layer)
    assert (len(older.events), len(newer.events)) == (0, 3)
    older.membership.leave()  # its late end
    await send(processes[2])
    newer.membership.leave()
    for layer in processes:
        with pytest.raises(SessionNotFound):
            await send(layer)


async def test_the_first_owns_the_key(processes: list[LocalChannelLayer]) -> None:
    older = await Connection(processes[0], "reject").join()
    for layer in processes:
        refused = Connection(layer, "reject")
        with pytest.raises(SessionTaken):
            await refused.join()
        await send(layer)
        assert not refused.events
    assert len(older.events) == 3
    older.membership.leave()
    next_one = await Connection(processes[1], "reject").join()
    await send(processes[0])
    assert len(next_one.events) == 1


async def test_all_own_the_key(redis: RedisServer) -> None:
    async with layers(3, redis, join=True) as processes:
        joined = [await Connection(layer, "join").join() for layer in (*processes, processes[0])]
        for layer in processes:
            await send(layer)
        await asyncio.sleep(0.1)
        assert [len(connection.events) for connection in joined] == [3] * 4


@pytest.mark.parametrize("seed", range(8))
async def test_races_leave_one_owner(processes: list[LocalChannelLayer], seed: int) -> None:
    """Many connect at the same time: all get in, all but one are replaced, and that one gets everything."""
    choose = random.Random(seed)
    connections = [Connection(choose.choice(processes), "replace") for _ in range(12)]

    async def come(connection: Connection) -> None:
        await asyncio.sleep(choose.random() / 200)
        await connection.join()

    await asyncio.gather(*[come(connection) for connection in connections])
    (owner,) = [connection for connection in connections if not connection.replaced]
    assert all(connection.replaced == 1 for connection in connections if connection is not owner)
    before = len(owner.events)
    for layer in processes:
        await send(layer)
    assert len(owner.events) == before + 3


@pytest.mark.parametrize("seed", range(8))
async def test_races_let_one_in_at_most(processes: list[LocalChannelLayer], seed: int) -> None:
    """Two that come at the same moment may both be refused, but never are two let in."""
    choose = random.Random(seed)
    connections = [Connection(choose.choice(processes), "reject") for _ in range(12)]

    async def come(connection: Connection) -> bool:
        await asyncio.sleep(choose.random() / 200)
        try:
            await connection.join()
        except SessionTaken:
            return False
        return True

    let_in = await asyncio.gather(*[come(connection) for connection in connections])
    assert sum(let_in) == 1
    for layer in processes:
        await send(layer)
    assert [len(connection.events) for connection in connections] == [3 * inside for inside in let_in]


async def test_while_it_waits_for_the_key_the_older_one_has_it(processes: list[LocalChannelLayer]) -> None:
    """What is sent at any moment of a change reaches one of the two."""
    for _ in range(10):
        older = await Connection(processes[0], "replace").join()
        newer = Connection(processes[1], "replace")
        joining = asyncio.create_task(newer.join())
        sends = 0
        while not joining.done():
            await asyncio.sleep(0)
            await send(processes[sends % 3])
            sends += 1
        assert len(older.events) + len(newer.events) == sends
        newer.membership.leave()


async def test_a_key_that_connected_elsewhere_during_a_gap(redis: RedisServer) -> None:
    """The process that was cut off finds out when it is back, and the newer connection wins."""
    async with RedisServer.running() as private, layers(2, private) as (one, two):
        for first, second in ((one, two), (two, one)):
            older = await Connection(first, "replace").join()
            # As if this process's connection to Redis had broken, and come back only after the other's connect.
            for shard in first._shards:
                shard._lose("test")
            newer = await Connection(second, "replace").join()
            assert not older.replaced or newer.membership

            async def replaced(older: Connection = older) -> bool:
                return bool(older.replaced)

            await eventually(replaced, "the older one's end", 10)
            await send(one)
            await send(two)
            assert (len(newer.events), newer.replaced) == (2, 0)
            newer.membership.leave()


async def test_while_that_is_found_out_nobody_gets_anything_twice() -> None:
    """Both are subscribed then, and the one that was cut off doesn't know yet that it lost the key."""
    async with RedisServer.running() as private, layers(3, private) as (one, two, other):
        for number in range(20):
            older = await Connection(one, "replace").join()
            for shard in one._shards:
                shard._lose("test")
            newer = await Connection(two, "replace").join()
            sent = 0
            while not older.replaced:
                with contextlib.suppress(ClusterUnreachable):
                    await send(other)
                    sent += 1
                await asyncio.sleep(0)
            await send(other)
            assert (len(older.events), len(newer.events)) == (0, sent + 1), number
            newer.membership.leave()
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("policy", ["replace", "reject"])
async def test_a_claim_that_comes_late_still_leaves_one_owner(policy: str) -> None:
    """The older one's process stood still for so long that the newer one went on without its answer."""
    async with (
        RedisServer.running() as private,
        Wire.running(private.port) as wire,
        layers(1, private) as (quick,),
        layers(1, private, urls=[f"redis://127.0.0.1:{wire.port}"]) as (slow,),
    ):
        older = await Connection(slow, policy).join()
        await asyncio.sleep(0.2)  # they have heard of each other
        wire.stall(there=False)
        newer = await Connection(quick, policy).join()
        await asyncio.sleep(0.5)
        wire.resume()

        async def replaced() -> bool:
            return bool(older.replaced)

        await eventually(replaced, "the older one's end", 10)
        assert not newer.replaced
        await send(slow)
        await send(quick)
        assert len(newer.events) == 2


async def test_without_redis_nobody_gets_in() -> None:
    layer = make_layer("redis://127.0.0.1:9")
    connection = Connection(layer, "replace")
    with pytest.raises(ClusterUnreachable):
        await connection.join()
    assert not layer._groups
    await layer.flush()


async def test_who_leaves_in_the_middle_leaves_nothing(redis: RedisServer) -> None:
    async with layers(2, redis) as (one, two):
        owner = await Connection(one, "replace").join()
        for _ in range(20):
            task = asyncio.create_task(Connection(two, "replace").join())
            await asyncio.sleep(random.random() / 500)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if not task.cancelled():
                task.result().membership.leave()
        assert not two._groups

        async def only_ours() -> bool:
            count: int = (await redis.execute("PUBSUB", "NUMSUB", f"test__group__{GROUP}"))[1]
            return count == (0 if owner.replaced else 1)

        await eventually(only_ours, "the subscriptions to go")
