"""examples/deploy, as it stands there but for names and ports: load balancers, systemd's unit, image, compose file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import yaml
from websockets.asyncio.client import connect

from proxy.machine import SPARE_FILES
from tests import image
from tests.backend import Backend
from tests.certificates import Certificate
from tests.clients import Headers, Http, Response, ending, receive
from tests.image import DEPLOY, Image
from tests.redis_servers import RedisServer, eventually
from tests.servers import ROOT, Server, Servers, free_port
from tests.test_http_reader import H2C
from tests.test_nginx import START
from tests.vectors_api import OK

KEY = "0123456789abcdef"
BALANCERS = ("nginx", "haproxy")
DENY_WRITE_EXECUTE = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
"""PR_SET_MDWE, which Linux has since 6.3; systemd does the same by other means."""


@dataclass
class Site:
    """A load balancer at 127.0.0.10, in front of two nodes."""

    nodes: list[Server]
    public: int
    private: int
    tls: ssl.SSLContext

    def client(self, session: str) -> connect:
        """What a browser does, that pretends to be somebody else."""
        forged = [("X-Forwarded-For", "203.0.113.7"), ("X-Forwarded-Proto", "ftp"), ("Forwarded", "for=203.0.113.7")]
        return connect(
            f"wss://127.0.0.10:{self.public}/connect?key={session}",
            ssl=self.tls, server_hostname="localhost", additional_headers=forged, proxy=None, ping_interval=None,
        )  # fmt: skip

    async def request(self, port: int, path: str, headers: Headers = (), body: bytes = b"") -> Response:
        """A POST to one of its ports."""
        tls: dict[str, Any] = {"ssl": self.tls, "server_hostname": "localhost"} if port == self.public else {}
        reader, writer = await asyncio.open_connection("127.0.0.10", port, **tls)
        try:
            http = Http(self.nodes[0], reader, writer)
            return await http.request("POST", path, [*headers, ("Connection", "close")], body)
        finally:
            writer.close()

    async def push(self, path: str, session: str, body: bytes = b"", key: str = KEY) -> tuple[int, bytes]:
        """What the backend does."""
        headers = [("X-Kuiperbelt-Session", session), ("Authorization", f"Bearer {key}")]
        response = await self.request(self.private, path, headers, body)
        return response.status, response.body


@pytest.fixture(scope="module")
async def sites(
    servers: Servers, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[str, Site]]:
    """Both balancers, in front of the same nodes."""
    directory = tmp_path_factory.mktemp("balancers")
    shared = servers.cluster_env() | {
        "EKBO_API_KEYS": KEY, "EKBO_TRUSTED_PROXIES": "127.0.0.10", "EKBO_DRAIN_WINDOW": "2s"
    }  # fmt: skip
    nodes = await asyncio.gather(
        *(servers.start("uvicorn", shared | {"EKBO_API_PORT": str(free_port())}) for _ in range(2))
    )
    certificate = Certificate(directory)
    (directory / "both.pem").write_text(certificate.cert.read_text() + certificate.key.read_text())
    context = ssl.create_default_context(cafile=str(certificate.cert))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    made = {name: Site(list(nodes), free_port(), free_port(), context) for name in BALANCERS}
    async with contextlib.AsyncExitStack() as stack:
        for name, site in made.items():
            config = (DEPLOY / {"nginx": "nginx.conf", "haproxy": "haproxy.cfg"}[name]).read_text()
            config = _at_home(config, site)
            for old, new in (
                ("/etc/ssl/ws.example.com/fullchain.pem", certificate.cert),
                ("/etc/ssl/ws.example.com/privkey.pem", certificate.key),
                ("/etc/haproxy/ws.example.com.pem", directory / "both.pem"),
            ):
                config = config.replace(old, str(new))
            if name == "nginx":
                file, line = "nginx.conf", ["nginx", "-p", str(directory), "-c", "nginx.conf", "-e", "stderr"]
                config = f"{START}{config}}}\n"
            else:
                file, line = "haproxy.cfg", ["haproxy", "-db", "-f", str(directory / "haproxy.cfg")]
                config = config.replace("default-server check", "default-server source 127.0.0.10 check")
                config = config.replace("maxconn 60000", "maxconn 4000")  # this shell's limit of open files
            (directory / file).write_text(config)
            await stack.enter_async_context(_running(name, line, directory / f"{name}.log", site))
        yield made


def _at_home(config: str, site: Site) -> str:
    """The example's addresses, here."""
    first = re.sub(r"^#.*\n", "", config, flags=re.MULTILINE)
    for number, node in enumerate(site.nodes, 11):
        first = first.replace(f"10.0.0.{number}:9180", node.host).replace(f"10.0.0.{number}:9181", node.api.host)
    # HAProxy names the port that it asks for /ready.
    for number, node in enumerate(site.nodes, 1):
        first = re.sub(rf"(server node{number} .*) port 9181", rf"\1 port {node.api.port}", first)
    first = first.replace("listen 443", f"listen 127.0.0.10:{site.public}").replace(
        "bind :443", f"bind 127.0.0.10:{site.public}"
    )
    first = first.replace("10.0.0.10:9181", f"127.0.0.10:{site.private}").replace("10.0.0.0/24", "127.0.0.0/24")
    assert "10.0.0" not in first
    return first


@contextlib.asynccontextmanager
async def _running(name: str, line: list[str], log: Path, site: Site) -> AsyncIterator[None]:
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*line, stdout=output, stderr=output)

    async def answers() -> bool:
        assert process.returncode is None, text(log)
        return (await site.push("/ready", "x"))[0] == 200

    try:
        await eventually(answers, name)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def text(file: Path) -> str:
    return file.read_text(errors="replace")


def about(process: asyncio.subprocess.Process, what: str) -> str:
    """What the kernel says of it."""
    return text(Path(f"/proc/{process.pid}/{what}"))


@pytest.mark.parametrize("balancer", BALANCERS)
async def test_clients_and_the_backend(
    sites: dict[str, Site], balancer: str, backend: Backend, fresh: Callable[[str], str]
) -> None:
    """The client is who he is, not who he says; pushes come from the private side only."""
    site, keys = sites[balancer], [fresh("d") for _ in range(4)]
    async with contextlib.AsyncExitStack() as stack:
        clients = {key: await stack.enter_async_context(site.client(key)) for key in keys}
        assert await site.push("/send", ",".join(keys), b"hello") == (200, OK)
        for key, connection in clients.items():
            assert await receive(connection) == "hello"
            (asked,) = backend.seen("/connect", key)
            assert asked.one("X-Forwarded-For") == "127.0.0.1, 127.0.0.10"
            assert asked.one("X-Forwarded-Proto") == "https"
            assert asked.one("X-Forwarded-Host") == f"127.0.0.10:{site.public}"
            assert asked.one("Forwarded") is None
        line = json.dumps({"sessions": keys, "body": "all"}).encode()
        status, body = await site.push("/batch", keys[0], line)
        assert (status, json.loads(body)) == (200, {"line": 1, "result": "OK"})
        for connection in clients.values():
            assert await receive(connection) == "all"
        assert await site.push("/close", keys[0], b"bye") == (200, OK)
        assert (await ending(clients[keys[0]])).code == 1000
    for path in ("/send", "/close", "/batch", "/stats", "/ready", "/admin/", "/"):
        assert (await site.request(site.public, path)).status == 404
    upgraded = await site.request(site.public, "/connect", H2C)
    assert (upgraded.status, upgraded.one("Upgrade")) == (426, "websocket")
    assert (await site.push("/send", "x", key="a-wrong-key-of-16"))[0] == 401


async def test_a_node_ends(sites: dict[str, Site], fresh: Callable[[str], str]) -> None:
    """While it drains, and afterwards, new clients come to the other one; when it is back they come to it again."""
    async with contextlib.AsyncExitStack() as stack:
        for site in sites.values():
            for _ in range(2):
                await stack.enter_async_context(site.client(fresh("e")))
        one, other = next(iter(sites.values())).nodes

        async def clients_come(moment: str) -> None:
            for site in sites.values():
                keys = [fresh("e") for _ in range(4)]
                clients = [await stack.enter_async_context(site.client(key)) for key in keys]
                assert await site.push("/send", ",".join(keys), b"here") == (200, OK), moment
                assert [await receive(connection) for connection in clients] == ["here"] * 4

        ends = asyncio.create_task(other.stop())
        for _ in range(3):
            await clients_come("one node ends")
            await asyncio.sleep(0.2)
        assert await ends == 0
        await clients_come("one node has ended")
        await other.restart()
        await asyncio.sleep(2.5)  # HAProxy asks every 2 s
        ends = asyncio.create_task(one.stop())
        for _ in range(3):
            await clients_come("the other one is back, and the first ends")
            await asyncio.sleep(0.2)
        assert await ends == 0


# systemd


def unit(name: str) -> list[str]:
    """The values of a setting in kuiperbelt.service."""
    return re.findall(rf"^{name}=(.*)$", (DEPLOY / "kuiperbelt.service").read_text(), re.MULTILINE)


def test_systemd_finds_the_unit_good(tmp_path: Path) -> None:
    """Nothing in it that systemd doesn't know, and little that it would forbid besides."""
    changed = (DEPLOY / "kuiperbelt.service").read_text().replace("/opt/kuiperbelt/.venv/bin/python", "/bin/true")
    file = tmp_path / "kuiperbelt.service"
    file.write_text(changed)
    for line in (["verify", str(file)], ["security", "--offline=true", "--no-pager", "--threshold=15", str(file)]):
        done = subprocess.run(["systemd-analyze", *line], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "nknown" not in done.stderr, done.stderr


# The image


@pytest.fixture(scope="module")
async def built(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The first stage of the Dockerfile; with DEPLOY_WHOLE pip installs the packages (`make image`)."""
    directory = tmp_path_factory.mktemp("image")
    for parent in [directory, *directory.parents]:  # for the image's user, who isn't the tests'
        if parent.stat().st_uid == os.getuid() and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o055)
    return await Image.build(directory, bool(os.environ.get("DEPLOY_WHOLE")))


def listening(env: Mapping[str, str], process: asyncio.subprocess.Process, log: Path) -> Server:
    return Server("uvicorn", dict(env), int(env["EKBO_PORT"]), log, process)


async def test_the_unit_runs(built: Image, backend: Backend, redis: RedisServer, tmp_path: Path) -> None:
    """With its own environment file: as a user without rights who can write the state directory only."""
    lines = (DEPLOY / "kuiperbelt.env").read_text().splitlines()
    env = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    (start,), (state,), (nofile,) = unit("ExecStart"), unit("StateDirectory"), unit("LimitNOFILE")
    assert int(nofile) >= int(env["EKBO_MAX_CONNECTIONS"]) + SPARE_FILES
    port, api = free_port(), free_port()
    env |= {
        "EKBO_CONNECT_CALLBACK_URL": f"http://127.0.0.1:{backend.port}/connect",
        "EKBO_CLOSE_CALLBACK_URL": f"http://127.0.0.1:{backend.port}/close",
        "EKBO_API_KEYS": KEY, "EKBO_SECRET_KEY": KEY * 4, "EKBO_REDIS_URL": redis.url, "EKBO_REDIS_PREFIX": "unit",
        "EKBO_PORT": str(port), "EKBO_HOST": "127.0.0.1", "EKBO_API_PORT": str(api), "EKBO_API_HOST": "127.0.0.1",
    }  # fmt: skip
    env["EKBO_MAX_CONNECTIONS"] = "3000"  # this machine's limit may be lower
    line = [word.replace("${WORKERS}", env["WORKERS"]) for word in shlex.split(start)]
    assert unit("MemoryDenyWriteExecute") == ["yes"]
    log = tmp_path / "log"
    process = await built.start([line[0], "-c", DENY_WRITE_EXECUTE, *line], env, log, f"/var/lib/{state}", int(nofile))
    server = listening(env, process, log)
    try:
        await server.ready()
        status = about(process, "status")
        assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
        (reload,) = unit("ExecReload")
        assert reload == "/bin/kill -HUP $MAINPID"
        process.send_signal(signal.SIGHUP)

        async def reread() -> bool:
            return log.read_text().count("configuration: read anew") == 3

        await eventually(reread, "the supervisor and two workers to read anew")
    finally:
        began = monotonic()
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        assert await process.wait() == 0, text(log)
    assert monotonic() - began < float(unit("TimeoutStopSec")[0])
    assert "Traceback" not in log.read_text()
    assert "open files" not in log.read_text()


def compose() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "compose.yaml").read_text()))


async def test_the_image_runs(built: Image, backend: Backend, tmp_path: Path) -> None:
    """As the compose file runs it: tables are made, the health check passes, and what it says of Redis is true."""
    services = compose()["services"]
    arguments = [str(each) for each in services["redis"]["command"][1:]]
    del arguments[:2]  # the password, which is ours
    async with RedisServer.running("hidden", *arguments) as redis:
        port, api = free_port(), free_port()
        values = {"API_KEY": KEY, "SECRET_KEY": KEY * 4, "PASSWORD": "hidden"}
        values |= {
            f"{name}_CALLBACK_URL": f"http://127.0.0.1:{backend.port}/{name.lower()}"
            for name in ("CONNECT", "RECEIVE", "CLOSE")
        }
        env = image.environment() | {
            name: re.sub(r"\$\{(\w+)[^}]*\}", lambda match: values[match[1]], value)
            for name, value in services["proxy"]["environment"].items()
        }
        assert env["EKBO_REDIS_URL"] == "redis://:hidden@redis:6379/0"
        # Without names of other containers; PostgreSQL is tested with the README's nodes.
        env |= {"EKBO_REDIS_URL": redis.url, "EKBO_DATABASE_URL": image.environment()["EKBO_DATABASE_URL"]}
        env |= {"EKBO_PORT": str(port), "EKBO_API_PORT": str(api)}
        entry, log = json.loads(image.one("ENTRYPOINT")), tmp_path / "log"
        migrate = await built.start([*entry, *services["migrate"]["command"]], env, log)
        assert await migrate.wait() == 0, log.read_text()
        assert "Applying proxy.0001_initial... OK" in log.read_text()
        command = [str(each) for each in services["proxy"]["command"]]
        nofile = int(services["proxy"]["ulimits"]["nofile"])
        process = await built.start([*entry, *command], env, log, nofile=nofile)
        try:
            await listening(env, process, log).ready()
            if os.getuid() == 0:
                user, group = image.one("USER").split(":")
                status = about(process, "status")
                assert re.search(rf"^Uid:\s+{user}\s", status, re.MULTILINE)
                assert re.search(rf"^Gid:\s+{group}\s", status, re.MULTILINE)
            root = Path(f"/proc/{process.pid}/root")
            with pytest.raises(OSError, match="Read-only"):
                (root / "opt/kuiperbelt/written").write_text("x")
            with pytest.raises(OSError, match="Read-only"):
                (root / "etc/written").write_text("x")
            check = image.health_check()
            health = await asyncio.create_subprocess_exec(*check, env=env)
            assert await health.wait() == 0
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            assert await process.wait() == 0, text(log)
        sick = await asyncio.create_subprocess_exec(*check, env=env, stderr=asyncio.subprocess.DEVNULL)
        assert await sick.wait() != 0
    assert "Traceback" not in text(log)
    assert "WARNING" not in text(log), text(log)


def test_compose() -> None:
    """Every service of ours has no rights, and says how it is; the API isn't published."""
    services = compose()["services"]
    for name in ("migrate", "proxy", "redis"):
        assert services[name]["read_only"], name
        assert services[name]["cap_drop"] == ["ALL"], name
        assert services[name]["security_opt"] == ["no-new-privileges:true"], name
    assert services["proxy"]["ports"] == ["9180:9180"]
    assert compose()["networks"]["private"] == {"internal": True}
    names = {
        line.split(":")[0] for line in (ROOT / "proxy/options.py").read_text().split('"') if line.startswith("EKBO_")
    }
    assert set(services["proxy"]["environment"]) <= names
    window, graceful = 10, int(services["proxy"]["stop_grace_period"].rstrip("s"))
    assert graceful > window + 30
    assert float(unit("TimeoutStopSec")[0]) > window + 30
