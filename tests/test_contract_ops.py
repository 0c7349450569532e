"""/ping, /stats, the configuration at start, the log: what monitoring and operators rely on, on every server."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.at_once import at_once
from tests.backend import Answer, Backend, welcome
from tests.clients import RawWebSocket, client, close, receive, request, send
from tests.servers import ALONE, ROOT, Server, Servers, environment, free_port
from tests.vectors import each_of
from tests.vectors_api import OK

pytestmark = pytest.mark.usefixtures("clean_logs")
kind = each_of(ALONE)  # what a process does for itself, whatever other nodes there are

COUNTERS = [
    "connections",
    "total_connections",
    "total_messages",
    "connect_errors",
    "message_errors",
    "closing_connections",
]
TSV = [
    ("kuiperbelt.conn.current", "connections"),
    ("kuiperbelt.conn.total", "total_connections"),
    ("kuiperbelt.conn.errors", "connect_errors"),
    ("kuiperbelt.conn.closing", "closing_connections"),
    ("kuiperbelt.messages.total", "total_messages"),
    ("kuiperbelt.messages.errors", "message_errors"),
]
PATHS = {
    "EKBO_CONNECT_PATH": "/ws",
    "EKBO_SEND_PATH": "/api/push",
    "EKBO_CLOSE_PATH": "/api/end",
    "EKBO_STATS_PATH": "/api/numbers",
    "EKBO_PING_PATH": "/alive",
}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
async def test_ping(kind: str, method: str, servers: Servers) -> None:
    """Any method."""
    server = await servers.get(kind)
    response = await request(server, method, "/ping", [("X-Forwarded-For", "192.0.2.1")])
    assert (response.status, response.body) == (200, b"" if method == "HEAD" else OK)
    assert (response.one("Content-Type") or "").startswith("application/json")


async def stats(server: Server) -> dict[str, int]:
    """The counters, which must be the right ones in the right order."""
    response = await request(server, "GET", "/stats")
    assert response.status == 200
    assert (response.one("Content-Type") or "").startswith("application/json")
    assert response.body.endswith(b"}\n")
    counters: dict[str, int] = response.json()
    assert list(counters) == COUNTERS
    assert all(type(value) is int for value in counters.values())
    return counters


async def counted(server: Server, expected: dict[str, int]) -> None:
    """Wait until the counters are as expected; ends of connections take a moment."""
    for _ in range(100):
        got = await stats(server)
        if got == expected:
            break
        await asyncio.sleep(0.05)
    assert got == expected


async def test_stats(kind: str, servers: Servers, backend: Backend, fresh: Callable[[str], str]) -> None:
    """Each counter counts what the contract says, from 0 on a new server; as JSON and as TSV."""
    server = await servers.start(kind)
    expected = dict.fromkeys(COUNTERS, 0)
    assert await stats(server) == expected
    one, two = fresh("n"), fresh("n")
    backend.on("/connect", two, welcome(two, b"first"))
    async with client(server, one):
        expected |= {"connections": 1, "total_connections": 1}
        await counted(server, expected)
        async with client(server, two) as second:
            assert await receive(second) == "first"
            expected |= {"connections": 2, "total_connections": 2, "total_messages": 1}
            await counted(server, expected)
            assert (await send(server, f"{one},{two},{two}")).body == OK
            expected["total_messages"] += 3
            await counted(server, expected)
        expected["connections"] = 1
        await counted(server, expected)
        # connect_errors are refusals that are not 403.
        for status, counts in ((403, 0), (401, 1), (503, 1), (302, 1)):
            key = fresh("r")
            backend.on("/connect", key, Answer(status=status))
            async with RawWebSocket.open(server) as raw:
                assert (await raw.handshake(f"/connect?key={key}")).status >= 400
            expected["connect_errors"] += counts
            # Whether a refused connect counts among all connections is nobody's promise.
            expected["total_connections"] = (await stats(server))["total_connections"]
            await counted(server, expected)
        await check_tsv(server, expected)
        assert (await close(server, one, b"bye")).body == OK
        expected |= {"connections": 0, "total_messages": expected["total_messages"] + 1}
        await counted(server, expected)
    await server.stop()


@at_once(kind=ALONE)
async def test_stats_of_ends(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """closing_connections are close callbacks under way; message_errors frames that were taken but not written."""
    server = await servers.start(kind, {"EKBO_BLOCKED_TIMEOUT": "500ms", "EKBO_SEND_QUEUE_SIZE": "3"})
    zero = dict.fromkeys(COUNTERS, 0)
    backend.on("/close", key, Answer(delay=1.0))
    async with RawWebSocket.connected(server, key, receive_buffer=64 * 1024):
        await backend.wait("/establish", key)
        taken = 0
        while (await send(server, key, b"x" * 100_000)).body == OK:
            taken += 1
            assert taken < 400
        # One was in the writer's hand and three were queued.
        one = {"total_connections": 1, "message_errors": 4, "total_messages": taken + 1}
        await counted(server, zero | one | {"closing_connections": 1})
        await counted(server, zero | one)
    await server.stop()


async def check_tsv(server: Server, expected: dict[str, int]) -> None:
    """The same counters as lines NAME<TAB>VALUE<TAB>EPOCH."""
    for form in ("tsv", "txt", "text"):
        response = await request(server, "GET", f"/stats?format={form}")
        assert response.status == 200
        assert (response.one("Content-Type") or "").startswith("text/plain")
        assert response.body.endswith(b"\n")
        lines = [line.split("\t") for line in response.body.decode().splitlines()]
        assert [(name, value) for name, value, _ in lines] == [(name, str(expected[key])) for name, key in TSV]
        assert all(abs(int(epoch) - time.time()) < 5 for _, _, epoch in lines)
    assert list((await request(server, "GET", "/stats?format=json")).json()) == COUNTERS


async def test_paths(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """All five paths are configured, and the default ones are gone."""
    server = await servers.get(kind, PATHS, "/alive")
    to = [("X-Kuiperbelt-Session", key)]
    async with client(server, key, target="/ws") as connection:
        assert (await request(server, "POST", "/api/push", to, b"x")).body == OK
        assert await receive(connection) == "x"
        assert list((await request(server, "GET", "/api/numbers")).json()) == COUNTERS
        for path in ("/ping", "/stats", "/send", "/close", "/connect", "/", "/api", "/wsx"):
            assert (await request(server, "GET", path)).status == 404, path
        assert (await request(server, "POST", "/api/end", to, b"")).body == OK
    async with RawWebSocket.open(server) as raw:
        assert (await raw.handshake("/connect?key=x")).status in (403, 404)
    assert not backend.seen("/connect", "x")


# Configuration at start


async def start_fails(servers: Servers, kind: str, env: dict[str, str]) -> str:
    """Start a server that must exit with 1 and never listen; what it printed."""
    server = await servers.launch(kind, env)
    try:
        listened = False
        deadline = time.monotonic() + 20
        while server.process.returncode is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.close()
                listened = True
            await asyncio.sleep(0.02)
        assert server.process.returncode == 1, server.output()
        assert not listened, "it listened all the same"
        return server.output()
    finally:
        await server.stop()


BAD = {
    "EKBO_PORT": "70000",
    "EKBO_CONNECT_CALLBACK_URL": "nonsense",
    "EKBO_CLOSE_CALLBACK_URL": "http:///x",
    "EKBO_RECEIVE_CALLBACK_URL": "ftp://h/x",
    "EKBO_CALLBACK_TIMEOUT": "10 seconds",
    "EKBO_IDLE_TIMEOUT": "15",
    "EKBO_SEND_TIMEOUT": "-1s",
    "EKBO_ORIGIN_POLICY": "same_orign",
    "EKBO_SEND_QUEUE_SIZE": "many",
    "EKBO_MAX_BODY_SIZE": "-7",
    "EKBO_STRICT_BROADCAST_MODE_SWITCH": "perhaps",
    "EKBO_SESSION_HEADER_NAME": "X Session",
    "EKBO_TRUSTED_PROXIES": "300.0.0.0/8",
    "EKBO_API_ALLOW": "somewhere",
    "EKBO_PROXY_SET_HEADER": "[1, 2]",
    "EKBO_SEND_PATH": "no-slash",
}


def named(output: str, env: dict[str, str]) -> None:
    """The report names every bad variable and what was found in it, unless that may hold a secret."""
    secret = BAD["EKBO_PROXY_SET_HEADER"]
    assert secret not in output
    assert not [text for item in env.items() for text in item if text not in output and text != secret], output


async def test_bad_environment(kind: str, servers: Servers) -> None:
    """One report that names every bad key and what was found; exit 1, nothing listening."""
    named(await start_fails(servers, kind, BAD), BAD)


async def test_no_connect_callback(kind: str, servers: Servers) -> None:
    """callback.connect is required; the report does not name what is right."""
    output = await start_fails(servers, kind, {"EKBO_CONNECT_CALLBACK_URL": ""})
    assert "callback.connect" in output
    assert "EKBO_CLOSE" not in output


async def test_no_such_file(kind: str, servers: Servers) -> None:
    """A configuration file that is not there."""
    output = await start_fails(servers, kind, {"EKBO_CONFIG": "no-such-file.yml"})
    named(output, {"EKBO_CONFIG": "no-such-file.yml"})


async def check_command(servers: Servers, name: str, env: dict[str, str]) -> str:
    """Run a management command that must exit with 1; what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "manage.py",
        name,
        cwd=ROOT,
        env=environment(servers.backend.port, env),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 20)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 1, output.decode()
    return output.decode()


async def test_check_command(servers: Servers) -> None:
    """The same report comes from `manage.py check`."""
    named(await check_command(servers, "check", BAD), BAD)


BAD_FILE = """\
prot: 9180
port: "{{ env "TEST_NO_SUCH_VARIABLE" "eighty" }}"
callback:
  connect: "{{ must_env "TEST_NO_SUCH_VARIABLE" }}"
  close: "http://127.0.0.1/close"
  recieve: "http://127.0.0.1/receive"
  timeout: 5parsecs
path:
  send: no-slash
idle_timeout: never
"""


async def test_bad_file(kind: str, servers: Servers, tmp_path: Path) -> None:
    """Unknown keys and bad values of a file are all in the report."""
    (tmp_path / "config.yml").write_text(BAD_FILE)
    env = {f"EKBO_{name}_CALLBACK_URL": "" for name in ("CONNECT", "ESTABLISH", "RECEIVE", "CLOSE")}
    env |= {"EKBO_CONFIG": str(tmp_path / "config.yml"), "EKBO_CALLBACK_TIMEOUT": ""}
    output = await start_fails(servers, kind, env)
    assert "TEST_NO_SUCH_VARIABLE" in output
    (tmp_path / "config.yml").write_text(BAD_FILE.replace('must_env "TEST_NO_SUCH_VARIABLE"', 'env "TEST_NO" ""'))
    output = await start_fails(servers, kind, env)
    wrong = ["prot", "callback.connect", "callback.recieve", "5parsecs", "path.send", "no-slash", "idle_timeout"]
    assert not [name for name in wrong if name not in output], output


async def test_port_and_sock(kind: str, servers: Servers, tmp_path: Path) -> None:
    """port and sock together are an error."""
    env = {"EKBO_PORT": str(free_port()), "EKBO_UNIX_DOMAIN_SOCKET_FILENAME": str(tmp_path / "s")}
    output = await start_fails(servers, kind, env)
    assert "sock" in output
    assert "port" in output


GOOD_FILE = """\
# a kuiperbelt configuration
port: {port}
session_header: "X-App-Session"
callback:
  connect: "http://127.0.0.1:{backend}/{{{{ env "TEST_PREFIX" "file" }}}}/connect"
  close: "http://127.0.0.1:{backend}/{{{{ must_env "TEST_PREFIX" }}}}/close"
  timeout: 2s
path:
  connect: /ws
endpoint: "from-the-file:1"
proxy_set_header:
  X-From-File: "yes"
  Cookie: ""
strict_broadcast: true
send_timeout: 1m30s
send_queue_size: 3
idle_timeout: 0
origin_policy: none
suppress_access_log: true
"""


async def test_good_file(kind: str, servers: Servers, backend: Backend, key: str, tmp_path: Path) -> None:
    """kuiperbelt's file is understood; variables win over it."""
    port = free_port()
    config = tmp_path / "config.yml"
    config.write_text(GOOD_FILE.format(port=port, backend=backend.port))
    env = {f"EKBO_{name}_CALLBACK_URL": "" for name in ("CONNECT", "ESTABLISH", "RECEIVE", "CLOSE")}
    env |= {"EKBO_CONFIG": str(config), "EKBO_SELF_ENDPOINT_URL": "from-the-variable:2", "TEST_PREFIX": "pre"}
    server = await servers.start(kind, env)
    backend.on("/pre/connect", key, Answer(headers=[("X-App-Session", key)]))
    async with client(server, key, ("Cookie", "a=b"), target="/ws") as connection:
        (seen,) = backend.seen("/pre/connect", key)
        assert seen.one("X-From-File") == "yes"
        assert seen.one("Cookie") is None
        assert seen.one("X-Kuiperbelt-Endpoint") == "from-the-variable:2"
        lines = [("X-App-Session", key), ("X-App-Session", "nobody")]
        refused = await request(server, "POST", "/send", lines, b"x")
        assert (refused.status, refused.json()["result"]) == (400, "NG")
        assert (await request(server, "POST", "/send", lines[:1], b"x")).body == OK
        assert await receive(connection) == "x"
    await backend.wait("/pre/close", key)
    await server.stop()


async def test_port_of_the_file(servers: Servers, backend: Backend, tmp_path: Path) -> None:
    """runproxy listens where the file says."""
    port = free_port()
    (tmp_path / "config.yml").write_text(GOOD_FILE.format(port=port, backend=backend.port))
    env = environment(backend.port, {"EKBO_CONFIG": str(tmp_path / "config.yml"), "TEST_PREFIX": "p"})
    with (tmp_path / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "manage.py", "runproxy", cwd=ROOT, env=env, stdout=log, stderr=log
        )
    server = Server("uvicorn", env, port, tmp_path / "log", process)
    try:
        await server.ready()
    finally:
        await server.stop()


# The log


async def access_log(servers: Servers, kind: str, key: str, env: dict[str, str]) -> str:
    """What a server logs about one /send and one connection."""
    server = await servers.get(kind, env)
    before = len(server.output())
    async with client(server, key, target="/connect?password=hunter2"):
        assert (await send(server, key, b"x", ("Authorization", "Bearer topsecret"))).body == OK
    await asyncio.sleep(0.2)
    output = server.output()[before:]
    # Neither query strings nor keys nor tokens belong in a log.
    assert not [secret for secret in ("hunter2", "topsecret") if secret in output]
    return output


async def test_access_log(kind: str, servers: Servers, key: str) -> None:
    """A line for a request; none with suppress_access_log."""
    assert "/send" in await access_log(servers, kind, key, {})
    assert "/send" not in await access_log(servers, kind, key, {"EKBO_SUPPRESS_ACCESS_LOG": "true"})


async def test_stats_takes_any_query(kind: str, servers: Servers) -> None:
    """Whatever the query, the counters come."""
    server = await servers.get(kind)
    for query in ("", "?", "?format=", "?format=xml", "?format=tsv&format=json", "?%00"):
        response = await request(server, "GET", f"/stats{query}")
        assert response.status == 200
        assert response.body
