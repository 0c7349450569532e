"""How commands reach sockets: what they make of the answers of nodes, and of nodes that don't answer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect

from proxy.models import Node
from tests.clients import TIMEOUT, ending, request
from tests.operators import Done, Registry, manage
from tests.servers import Servers, free_port
from tests.test_registry import until

HERE = socket.gethostname()
FOUND = b'{"result":"OK"}'


async def test_a_thousand_keys_of_any_length(servers: Servers) -> None:
    """daphne takes the least in one request."""
    server = await servers.start("daphne")
    registry = await Registry.at(server.env["EKBO_DATABASE_URL"])
    keys = [f"{number:06}{'k' * 250}" for number in range(1500)]
    assert (await request(server, "GET", "/ready")).status == 200  # daphne is in the registry from its first request on
    node = await registry.run(lambda: Node.objects.using(registry.alias).get(ended_at=None))
    await registry.sessions(keys, node)
    done = await manage("sendmessage", *keys, "hello", env=server.env)
    assert (done.status, done.output) == (100, "sent to 0 of 1,500 sessions\n")
    assert done.errors.splitlines() == [f"{key}: kuiperbelt: session is not found" for key in keys]
    done = await manage("closesessions", "--all", "--no-input", env=server.env)
    assert (done.status, done.output) == (0, "closed 0 of 1,500 sessions\n")
    await server.stop()


@asynccontextmanager
async def node(status: str, body: bytes, sock: str = "") -> AsyncIterator[tuple[str, list[bytes]]]:
    """Something that answers every request the same; where it is, and the heads that it got."""
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        writer.close()

    if sock:
        server: asyncio.Server = await asyncio.start_unix_server(answer, sock)
    else:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield sock or f"127.0.0.1:{server.sockets[0].getsockname()[1]}", heads


@pytest.fixture
async def send(tmp_path: Path) -> Callable[..., Awaitable[Done]]:
    """Sends to bob, who is at the endpoint given."""
    registry = await Registry.embedded(tmp_path)

    async def to(endpoint: str, host: str = "elsewhere", **env: str) -> Done:
        await registry.session("bob", await registry.node(host, endpoint))
        return await manage("sendmessage", "bob", "hello", env=registry.env | env)

    return to


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (
            "200 OK",
            b'{"errors":[{"error":"kuiperbelt: session is closed","session":"bob"}],"result":"OK"}',
            "is closed",
        ),
        ("200 OK", b"<html>", "refused with 200: not the proxy's answer"),
        ("200 OK", b"[1]", "not the proxy's answer"),
        ("404 Not Found", b"", "refused with 404: not the proxy's answer"),
        ("401 Unauthorized", b'{"errors":[{"error":"not allowed"}],"result":"NG"}', "first of its own EKBO_API_KEYS"),
        ("500 Internal Server Error", b'{"result":"NG"}', "refused with 500"),
    ],
)
async def test_answers(send: Callable[..., Awaitable[Done]], status: str, body: bytes, expected: str) -> None:
    async with node(status, body) as (place, _):
        done = await send(place)
    assert (done.status, done.output) == (1, "sent to 0 of 1 session\n")
    assert done.errors.startswith("bob: ")
    assert expected in done.errors


async def test_the_first_key_is_shown_to_nodes(send: Callable[..., Awaitable[Done]]) -> None:
    async with node("200 OK", FOUND) as (place, heads):
        done = await send(place, EKBO_API_KEYS="first-key-0123456,second-key-012345", EKBO_SEND_PATH="/push")
    assert (done.status, done.output) == (0, "sent to 1 of 1 session\n")
    (head,) = heads
    assert head.startswith(b"POST /push HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer first-key-0123456\r\n" in head
    assert b"\r\nX-Kuiperbelt-Session: bob\r\n" in head


async def test_a_unix_socket(send: Callable[..., Awaitable[Done]], tmp_path: Path) -> None:
    async with node("200 OK", FOUND, str(tmp_path / "api.sock")) as (place, _):
        assert (await send(place)).status == 0


async def test_on_the_same_host_loopback_is_tried_first(send: Callable[..., Awaitable[Done]]) -> None:
    async with node("200 OK", FOUND) as (place, _):
        assert (await send(place.replace("127.0.0.1", "no-such-host.invalid"), HERE)).status == 0


@pytest.mark.parametrize("host", ["elsewhere", HERE])
async def test_a_node_that_is_not_there(send: Callable[..., Awaitable[Done]], host: str) -> None:
    place = f"127.0.0.1:{free_port()}"
    done = await send(place, host)
    assert (done.status, done.errors) == (1, f"bob: node {host} at {place} can't be reached: Connection refused\n")


async def test_another_machine_of_the_same_name(servers: Servers, key: str) -> None:
    """One database, no Redis: at the same port, on loopback, is this machine's process. Each gets what is for it."""
    here = await servers.start("uvicorn")
    url, port = here.env["EKBO_DATABASE_URL"], str(here.port)
    there = await servers.launch("uvicorn", {"EKBO_HOST": "127.0.0.2", "EKBO_PORT": port, "EKBO_DATABASE_URL": url})

    async def listens() -> bool:
        return "listening on" in there.output()

    await until(listens, "the other one to listen")
    registry = await Registry.at(url, migrated=True)
    async with contextlib.AsyncExitStack() as stack:
        sessions: list[ClientConnection] = []
        for host in ("127.0.0.1", "127.0.0.2"):
            opening = connect(f"ws://{host}:{port}/connect?key={key}", proxy=None, open_timeout=TIMEOUT)
            sessions.append(await stack.enter_async_context(opening))
        done = await manage("sendmessage", key, "hello", env=here.env)
        assert (done.status, done.output, done.errors) == (0, "sent to 1 of 1 session\n", "")
        done = await manage("closesessions", key, "--no-input", env=here.env)
        assert (done.status, done.output, done.errors) == (0, "closed 1 of 1 session\n", "")
        for each in sessions:
            end = await ending(each)
            assert (end.code, end.frames) == (1000, ["hello"])
    await there.stop()
    lost = await registry.node(HERE, f"127.0.0.1:{port}")  # killed; another process has its place by now
    await registry.session(key, lost)
    done = await manage("sendmessage", key, "hello", env=here.env)
    why = f"node {HERE} at 127.0.0.1:{port} can't be reached: another process answers there"
    assert (done.status, done.errors) == (1, f"{key}: {why}\n")
    await here.stop()


async def test_a_node_that_hangs_up(send: Callable[..., Awaitable[Done]]) -> None:
    async with node("", b"") as (place, _):
        done = await send(place)
    assert "gave no whole answer" in done.errors
    assert "may have been done all the same" in done.errors


async def test_one_of_two_nodes_is_enough(send: Callable[..., Awaitable[Done]]) -> None:
    """A row of a node that was killed doesn't make a failure of a session that another has."""
    assert (await send(f"127.0.0.1:{free_port()}")).status == 1
    async with node("200 OK", FOUND) as (place, _):
        assert (await send(place)).status == 0


async def test_redis_that_is_not_there() -> None:
    done = await manage("sendmessage", "bob", "x", env={"EKBO_REDIS_URL": f"redis://:hunter2@127.0.0.1:{free_port()}"})
    assert done.status == 1
    assert "CommandError: expected Redis (EKBO_REDIS_URL), found: " in done.errors
    assert "hunter2" not in done.errors
