"""docs/howto-cluster.md, as it stands there: nginx, three nodes of two workers each, Redis, PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shlex
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.backend import Backend
from tests.clients import Headers, Http, Response, ending, receive
from tests.postgres import PostgresServer
from tests.redis_servers import RedisServer, eventually
from tests.servers import ROOT, Server, Servers, environment, free_port
from tests.vectors_api import OK

GUIDE = (ROOT / "docs/howto-cluster.md").read_text()
HTTP = """
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    proxy_bind 127.0.0.10;  # in the guide's network the machine's own address
"""
"""What the tests need in nginx's `http` section."""
START = f"daemon off;\npid nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n    access_log off;\n{HTTP}"
DEBIAN = Path("/etc/nginx")
DEFAULT_SITE = "sites-enabled/default"


def debian(directory: Path, public: int) -> None:
    """Debian's nginx as it comes: its nginx.conf and its site, but for this test's places and port."""
    config = (DEBIAN / "nginx.conf").read_text()
    for line, ours in {
        r"^user .*;": "daemon off;",
        r"^pid .*;": "pid nginx.pid;",
        r"error_log .*;": "error_log stderr;",
        r"access_log .*;": "access_log access.log;",
        r"^include .*/modules-enabled/.*;": "",  # whose paths are relative to Debian's prefix
        rf"{DEBIAN}/(conf\.d|sites-enabled)": r"\1",
    }.items():
        config = re.sub(line, ours, config, flags=re.MULTILINE)
    assert "include conf.d/*.conf;" in config
    assert "include sites-enabled/*;" in config
    (directory / "nginx.conf").write_text(config)
    site = (DEBIAN / "sites-available/default").read_text()
    site = site.replace("listen 80 default_server;", f"listen 127.0.0.10:{public} default_server;")
    for name in ("sites-enabled", "conf.d"):
        (directory / name).mkdir()
    (directory / DEFAULT_SITE).write_text(re.sub(r"listen \[::\]:80 .*;", "", site))


def block(language: str, holding: str) -> str:
    """The guide's block of code in this language that has this in it."""
    (found,) = [code for code in re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL) if holding in code]
    return str(found)


@dataclass
class Site:
    """The guide's machines: the load balancer is 127.0.0.10, and the nodes are ports."""

    nodes: list[Server]
    public: int
    """nginx's port for clients."""
    private: int
    """nginx's port for the backend."""
    key: str

    async def push(self, path: str, session: str, body: bytes = b"") -> tuple[int, bytes]:
        """What the backend does."""
        headers = [("X-Kuiperbelt-Session", session), ("Authorization", f"Bearer {self.key}")]
        response = await self.request(self.private, path, headers, body)
        return response.status, response.body

    async def request(self, port: int, path: str, headers: Headers = (), body: bytes = b"") -> Response:
        """A POST to one of nginx's ports."""
        reader, writer = await asyncio.open_connection("127.0.0.10", port)
        try:
            http = Http(self.nodes[0], reader, writer)
            return await http.request("POST", path, [*headers, ("Connection", "close")], body)
        finally:
            writer.close()

    def client(self, session: str) -> connect:
        """What a browser does."""
        return connect(f"ws://127.0.0.10:{self.public}/connect?key={session}", proxy=None, ping_interval=None)


@pytest.fixture(scope="module")
async def postgres() -> AsyncIterator[PostgresServer]:
    async with PostgresServer.running() as server:
        yield server


@pytest.fixture(scope="module")
async def site(
    servers: Servers, redis: RedisServer, postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    *exports, start = block("sh", "runproxy").strip().splitlines()
    chosen = dict(shlex.split(line)[1].split("=", 1) for line in exports)
    assert chosen["EKBO_REDIS_URL"] == "redis://:PASSWORD@10.0.0.10:6379/0"
    chosen |= {"EKBO_REDIS_URL": redis.url, "EKBO_TRUSTED_PROXIES": "127.0.0.10", "EKBO_REDIS_PREFIX": "readme"}
    assert chosen["EKBO_DATABASE_URL"] == "postgres://kuiperbelt:PASSWORD@10.0.0.10:5432/kuiperbelt"
    assert (chosen["EKBO_API_KEYS"], chosen["EKBO_SECRET_KEY"]) == ("API_KEY", "SECRET_KEY")
    chosen |= {"EKBO_DATABASE_URL": postgres.url, "EKBO_API_KEYS": "k" * 32, "EKBO_SECRET_KEY": "s" * 32}
    (migrate,) = re.findall(r"`(\S+ manage.py migrate)`", GUIDE)
    migrating = await asyncio.create_subprocess_exec(
        *migrate.split(), cwd=ROOT, env=environment(servers.backend.port, chosen), stdout=asyncio.subprocess.DEVNULL
    )
    assert await migrating.wait() == 0
    assert start.strip() == ".venv/bin/python manage.py runproxy --workers 2"
    nodes = await asyncio.gather(*[servers.start("workers", chosen) for _ in range(3)])
    public, private = free_port(), free_port()
    directory = tmp_path_factory.mktemp("nginx")
    config = block("nginx", "upstream").replace("listen 80;", f"listen 127.0.0.10:{public};")
    config = config.replace("listen 10.0.0.10:9180", f"listen 127.0.0.10:{private}")
    for number, node in enumerate(nodes, 11):
        config = config.replace(f"10.0.0.{number}:9180", node.host)
    assert "10.0.0" not in config
    debian(directory, public)
    (directory / "conf.d/kuiperbelt.conf").write_text(HTTP + config)
    assert f"rm /etc/nginx/{DEFAULT_SITE}" in GUIDE
    (directory / DEFAULT_SITE).unlink()
    with (directory / "log").open("wb") as log:
        nginx = await asyncio.create_subprocess_exec(
            "nginx", "-p", str(directory), "-c", "nginx.conf", "-e", "stderr", stdout=log, stderr=log
        )
    made = Site([*nodes], public, private, chosen["EKBO_API_KEYS"])

    async def answers() -> bool:
        assert nginx.returncode is None, (directory / "log").read_text()
        return (await made.push("/ready", "x"))[0] == 200

    try:
        await eventually(answers, "nginx")
        yield made
    finally:
        nginx.terminate()
        await nginx.wait()


async def test_clients_anywhere_pushes_anywhere(site: Site, backend: Backend, fresh: Callable[[str], str]) -> None:
    """Twelve clients spread over three nodes, pushes to all of them, whichever node gets them."""
    keys = [fresh("n") for _ in range(12)]
    async with contextlib.AsyncExitStack() as stack:
        clients: dict[str, ClientConnection] = {key: await stack.enter_async_context(site.client(key)) for key in keys}
        for number in range(6):
            assert await site.push("/send", ",".join(keys), b"%d" % number) == (200, OK)
        for connection in clients.values():
            assert [await receive(connection) for _ in range(6)] == [str(number) for number in range(6)]
        asked = [event for key in keys for event in backend.seen("/connect", key)]
        assert {event.one("X-Kuiperbelt-Endpoint") for event in asked} != {asked[0].one("X-Kuiperbelt-Endpoint")}
        # nginx is a trusted proxy, so the client is who it says, not nginx itself.
        assert {event.one("X-Forwarded-For") for event in asked} == {"127.0.0.1, 127.0.0.10"}
        assert {event.one("X-Forwarded-Host") for event in asked} == {f"127.0.0.10:{site.public}"}
        # Whichever node is asked: they have one registry.
        status, body = await site.push("/sessions", ",".join(keys))
        known = {entry["session"]: entry["connection"] for entry in json.loads(body)["alive"]}
        assert status == 200
        assert known == {event.key: event.one("X-Kuiperbelt-Connection") for event in asked}
        assert await site.push("/close", keys[0], b"bye") == (200, OK)
        end = await ending(clients[keys[0]])
        assert (end.code, end.frames) == (1000, ["bye"])


async def test_the_api_is_not_for_clients(site: Site) -> None:
    """Neither on the public port, nor without the key."""
    for path in ("/send", "/close", "/stats", "/"):
        assert (await site.request(site.public, path)).status == 404
    status, _ = await Site(site.nodes, site.public, site.private, "a-wrong-key").push("/send", "x")
    assert status == 401


async def test_one_node_less(site: Site, fresh: Callable[[str], str]) -> None:
    """A node ends: its clients come back elsewhere, and the backend doesn't notice."""
    keys = [fresh("l") for _ in range(6)]
    async with contextlib.AsyncExitStack() as stack:
        clients = {key: await stack.enter_async_context(site.client(key)) for key in keys}
        await site.nodes[2].stop()
        for key, connection in clients.items():
            if connection.state.name != "OPEN" or await gone(connection):
                clients[key] = await stack.enter_async_context(site.client(key))
        assert await site.push("/send", ",".join(keys), b"still here") == (200, OK)
        for connection in clients.values():
            assert await receive(connection) == "still here"


async def gone(connection: ClientConnection) -> bool:
    """Has its node ended?"""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(connection.wait_closed(), 0.5)
        return True
    return False
