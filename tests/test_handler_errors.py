"""A bug in a handler of ours ends that connection with 1011, and nothing else; one traceback in the log names it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.backend import Backend
from tests.clients import client, ending, receive, request, send
from tests.databases import rows
from tests.evidence import Evidence, Figures
from tests.servers import Servers
from tests.test_registry import file, until
from tests.vectors_api import OK, not_found

FRAMES = ("boom", "boom later")
"""What meets a bug as it is read, and on its way to the backend (tests/instrumented.py)."""
ROUNDS = 5


@pytest.mark.parametrize("frame", FRAMES)
async def test_a_bug_in_a_handler(
    frame: str, servers: Servers, backend: Backend, fresh: Callable[[str], str], evidence: Evidence
) -> None:
    server = await servers.start("instrumented", {"EKBO_MAX_CONNECTIONS": "2"})
    servers.told.add(server.process.pid)  # its tracebacks are what this is about
    other = fresh("other")
    connections: list[str] = []
    async with client(server, other) as bystander:
        for _ in range(ROUNDS):  # each has the place of the one before
            key = fresh("bug")
            async with client(server, key) as connection:
                await connection.send("before")
                await connection.send(frame)
                for _ in range(20):  # more than may wait for the backend
                    await connection.send("after")
                end = await ending(connection)
                assert (end.code, end.reason) == (1011, "error")
            (told,) = await backend.wait("/close", key)
            assert told.one("X-Kuiperbelt-Close-Reason") == "error"
            assert [received.body for received in backend.seen("/receive", key)] == [b"before"]
            assert (await send(server, key)).body == not_found(key)
            connections.append(told.one("X-Kuiperbelt-Connection") or "")
        await bystander.send("still here")
        await backend.wait("/receive", other)
        assert (await send(server, other)).body == OK
        assert await receive(bystander) == "hello"

        async def one_row() -> bool:
            return rows(file(server), "SELECT key FROM proxy_session") == [(other,)]

        await until(one_row, "the rows to go")
        assert (await request(server, "GET", "/stats")).json()["connections"] == 1
    log = server.output()
    tracebacks = [line for line in log.splitlines() if "unexpected error" in line]
    evidence(Figures(ROUNDS, ROUNDS))
    assert len(tracebacks) == log.count("Traceback") == ROUNDS
    assert all(connection in line for connection, line in zip(connections, tracebacks, strict=True))
    await server.stop()
