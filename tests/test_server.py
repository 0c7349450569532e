"""The uvicorn runner: a listener of the API's own, beside the public one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import pytest

from tests.backend import Answer, Backend
from tests.certificates import Certificate
from tests.clients import Http, client, dripped, handshake_headers, hung_up, receive, request, send
from tests.servers import Server, Servers, free_port

pytestmark = pytest.mark.usefixtures("clean_logs")

OK = b'{"result":"OK"}'
API_PATHS = ("/send", "/close", "/sessions", "/sessions/bob", "/stats", "/ready", "/admin/login/", "/static/", "/x")


async def started(servers: Servers, tmp_path: Path, place: str, kind: str) -> Server:
    env = {"EKBO_API_SOCK": str(tmp_path / "api.sock")} if place == "sock" else {"EKBO_API_PORT": str(free_port())}
    return await servers.start(kind, env | (servers.cluster_env() if kind == "workers" else {}))


@pytest.mark.parametrize(("kind", "place"), [("uvicorn", "port"), ("uvicorn", "sock"), ("workers", "sock")])
async def test_each_listener_has_its_own_paths(
    servers: Servers, backend: Backend, tmp_path: Path, key: str, kind: str, place: str
) -> None:
    server = await started(servers, tmp_path, place, kind)
    api = server.api
    assert api.address != server.address
    async with client(server, key) as connection:
        assert (await send(server, key, b"hello")).body == OK
        assert await receive(connection) == "hello"
        for path in API_PATHS:
            assert (await request(server, "GET", path)).status == 404, path
        async with Http.open(server) as http:  # POST too, again and again on one connection, and no frame comes
            for path in ("/send", "/close", "/send"):
                answer = await http.request("POST", path, [("X-Kuiperbelt-Session", key)], b"stolen")
                assert (answer.status, answer.body) == (404, b"not found\n")
        assert (await send(server, key, b"own")).body == OK
        assert await receive(connection) == "own"
    (asked,) = backend.seen("/connect", key)
    expected = str(tmp_path / "api.sock") if place == "sock" else f"127.0.0.1:{api.port}"
    assert asked.one("X-Kuiperbelt-Endpoint") == expected
    for each in (server, api):
        assert (await request(each, "GET", "/ping")).body == OK
    for path, status in (("/ready", 200), ("/stats", 200), ("/sessions", 200), ("/admin/login/", 200), ("/x", 404)):
        assert (await request(api, "GET", path)).status == status, path
    assert (await request(api, "GET", "/connect")).status == 404
    assert (await request(api, "GET", "/connect", handshake_headers())).status == 404
    forwarded = [("X-Kuiperbelt-Session", key), ("X-Forwarded-For", "127.0.0.1")]
    assert (await request(api, "POST", "/send", forwarded, b"x")).status == 403
    assert await server.stop() == 0
    assert not (tmp_path / "api.sock").exists()


async def test_both_listeners_are_named_in_the_log(servers: Servers) -> None:
    port = free_port()
    server = await servers.start("uvicorn", {"EKBO_API_PORT": str(port)})
    assert f"API on 127.0.0.1 port {port}\n" in server.output()
    await server.stop()


async def test_a_server_that_can_not_tell_listeners_apart_has_no_api(servers: Servers) -> None:
    server = await servers.start("daphne", {"EKBO_API_PORT": str(free_port())})
    assert (await request(server, "POST", "/send", [("X-Kuiperbelt-Session", "bob")], b"x")).status == 404
    assert (await request(server, "GET", "/admin/login/")).status == 404
    assert "EKBO_API_PORT" in server.output()
    await server.stop()


async def test_who_takes_too_long_to_ask(servers: Servers, backend: Backend, tmp_path: Path, key: str) -> None:
    """At both listeners, before and after the TLS handshake. Neither a slow answer nor a session is that."""
    env = Certificate(tmp_path).env | {"EKBO_API_PORT": str(free_port()), "EKBO_HEADER_TIMEOUT": "1s"}
    server = await servers.start("uvicorn", env)
    backend.on("/connect", key, Answer(delay=1.5, headers=[("X-Kuiperbelt-Session", key)]))
    async with contextlib.AsyncExitStack() as stack:
        public, silent, api, silent_api = [
            await stack.enter_async_context(Http.open(each)) for each in (server, server, server.api, server.api)
        ]
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        began = time.monotonic()
        connecting = asyncio.create_task(stack.enter_async_context(client(server, key)))
        took = await asyncio.gather(
            hung_up(reader),
            hung_up(silent.reader),
            hung_up(silent_api.reader),
            dripped(public.reader, public.writer, public.encode("GET", "/connect?key=slow", handshake_headers())),
            dripped(api.reader, api.writer, api.encode("POST", "/send", [("X-Kuiperbelt-Session", key)], b"x")),
        )
        assert all(0.8 < each < 3 for each in took), took
        connection = await connecting
        writer.close()
        assert time.monotonic() - began > 1.4
        await asyncio.sleep(1.3)
        assert (await send(server, key, b"still here")).body == OK
        assert await receive(connection) == "still here"
    assert not backend.seen("/connect", "slow")
    assert (await request(server.api, "GET", "/stats?format=full")).json()["request_timeouts"] == 4
    await server.stop()


@pytest.mark.parametrize("piece", [b"x" * 65536, b"X: y\r\n" * 11_000], ids=["one trailer", "many trailers"])
async def test_trailers_without_end(servers: Servers, key: str, piece: bytes) -> None:
    """The connection is closed before the parser has kept much of them."""
    server = await servers.get("uvicorn")
    async with Http.open(server) as http:
        head = http.encode("POST", "/send", [("X-Kuiperbelt-Session", key), ("Transfer-Encoding", "chunked")])
        await http.write(head + b"1\r\nx\r\n0\r\nX-Long: ")
        sent = 0
        with contextlib.suppress(OSError):
            while sent < 16 * 1024 * 1024:
                http.writer.write(piece)
                await http.writer.drain()
                sent += len(piece)
        assert sent < 8 * 1024 * 1024
