"""Where `tail` finds a key without Redis: at whichever node that lives, also after that has gone and come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from proxy.remote import ApiPlace
from proxy.tailing import MAX_WAITING, _Told
from tests.clients import client, receive, send
from tests.servers import Servers
from tests.test_tail import Tail


@pytest.mark.timeout(90)
async def test_two_nodes_of_one_database(servers: Servers, fresh: Callable[[str], str]) -> None:
    """They don't know each other. Nobody is absent as long as one of them has the key."""
    key = fresh("n")
    env = servers.database_env(f"nodes-{key}")
    one = await servers.start("uvicorn", env)
    two = await servers.start("uvicorn", env)
    async with Tail.running(key, "--json", env=one.env) as tail:
        await tail.report("absent")
        for server in (two, one):
            async with client(server, key) as connection:
                await tail.report("session")
                await send(server, key, b"here")
                assert await receive(connection) == "here"
                assert (await tail.report("sent"))["size"] == 4
            await tail.report("absent")
        assert [report["what"] for report in tail.seen].count("absent") == 3
        async with client(two, key):
            await tail.report("session")
            await two.kill()
            assert (await tail.report("lost"))["reason"].startswith("node ")
            await two.restart()
            async with client(two, key):
                await tail.report("regained")
                await tail.report("session")
    await asyncio.gather(one.stop(), two.stop())


def test_a_reader_that_stands_still() -> None:
    """What waits for him is bounded; how much he has missed he is told, and how things stand."""
    told, place = _Told(), ApiPlace("host", "127.0.0.1:1")
    for number in range(MAX_WAITING + 10):
        told.tell(place, {"what": "sent", "connection": "one", "n": number})
    told.tell(place, {"what": "missed", "connection": "one", "count": 7})
    told.tell(place, {"what": "absent"})
    found = [told.get_nowait()[1] for _ in range(told.qsize())]
    assert [report["n"] for report in found[:MAX_WAITING]] == list(range(MAX_WAITING))
    assert [(report["what"], report.get("count")) for report in found[MAX_WAITING:]] == [
        ("missed", 17),
        ("absent", None),
    ]
