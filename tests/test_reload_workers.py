"""`runproxy --reload-workers` as processes: a deploy that no client, backend or monitoring notices as an error."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.protocol import State

import proxy
from tests.backend import Backend
from tests.certificates import Certificate
from tests.clients import Http, client, ending, request, send
from tests.evidence import Evidence, Figures
from tests.redis_servers import RedisServer
from tests.servers import ROOT, WORKERS, Server, Servers, free_port
from tests.test_workers import alive, gone, pids, until

pytestmark = pytest.mark.usefixtures("clean_logs")

WINDOW = 1.0  # seconds
HELD = 12  # sessions that are there when the deploy begins


@dataclass
class Installed:
    """The proxy's code and configuration as they are on a production host, where a deploy changes them."""

    root: Path
    config: Path

    def change(self, path: str, old: str, new: str) -> None:
        file = self.root / path
        source = file.read_text()
        assert old in source
        file.write_text(source.replace(old, new, 1))

    async def command(self, server: Server) -> asyncio.subprocess.Process:
        """`runproxy --reload-workers`, with the server's configuration."""
        return await reload_workers(self.root, server.env)


async def reload_workers(root: Path, env: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "manage.py", "runproxy", "--reload-workers"),
        cwd=root,
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def said(process: asyncio.subprocess.Process) -> tuple[list[str], list[str]]:
    """The lines of its output and of its errors, when it has ended."""
    output, errors = await asyncio.wait_for(process.communicate(), 30)
    return output.decode().splitlines(), errors.decode().splitlines()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    root = tmp_path_factory.mktemp("installed")
    for name in ("proxy", "kbproject"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "manage.py", root)
    config = root / "config.yml"
    config.write_text("path:\n  ready: /ready\n")
    return Installed(root, config)


@pytest.fixture(scope="module")
async def own_redis() -> AsyncIterator[RedisServer]:
    """Of the first node alone."""
    async with RedisServer.running() as server:
        yield server


@pytest.fixture(scope="module")
async def nodes(
    servers: Servers, installed: Installed, own_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Server, Server]:
    """One with TLS and a UNIX socket for its API; one with a UNIX socket for clients and a port for its API."""
    directory = tmp_path_factory.mktemp("listeners")
    env = {"EKBO_DRAIN_WINDOW": f"{WINDOW:g}s", "EKBO_CONFIG": str(installed.config)}
    tls = {**env, **servers.cluster_env(), **Certificate(directory).env, "EKBO_API_SOCK": str(directory / "api")}
    tls["EKBO_REDIS_URL"] = own_redis.url
    unix = {**env, **servers.cluster_env(), "EKBO_API_PORT": str(free_port())}
    return await asyncio.gather(
        servers.start("workers", tls, root=installed.root),
        servers.start("workers", unix, sock=str(directory / "public"), root=installed.root),
    )


@dataclass
class Load:
    """Everybody who uses a node, all the time; what went wrong for them, which must be nothing."""

    server: Server
    fresh: Callable[[str], str]
    trouble: list[str] = field(default_factory=list)
    connects: int = 0
    pings: int = 0
    sends: int = 0
    moves: int = 0
    """How often the backend was asked to open a new connection."""
    counted: int = 0
    """/stats' total_connections and total_messages together, when they were asked for last."""
    held: dict[str, ClientConnection] = field(default_factory=dict)
    ends: dict[str, float] = field(default_factory=dict)
    """When each of the held sessions ended, by the monotonic clock."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(HELD):
                key = self.fresh("held")
                self.held[key] = await stack.enter_async_context(client(self.server, key))
            users = (self._connect, self._ping, self._send, self._stats)
            tasks = [asyncio.create_task(self._on_and_on(use)) for use in users]
            tasks += [asyncio.create_task(self._hold(key)) for key in self.held]
            yield self
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _on_and_on(self, use: Callable[[], object]) -> None:
        while True:
            try:
                await use()  # type: ignore[misc]
            except Exception as error:
                self.trouble.append(f"{use.__name__}: {error!r}")
            await asyncio.sleep(0.03)

    async def _hold(self, key: str) -> None:
        code = (await ending(self.held[key], 60)).code
        self.ends[key] = time.monotonic()
        if code != 1012:
            self.trouble.append(f"{key} ended with {code}")

    async def _connect(self) -> None:
        """Into the cluster, be pushed to through any worker, and out."""
        key = self.fresh("come")
        async with client(self.server, key) as connection:
            answer = await send(self.server, key)
            # A push to a session that a worker which leaves has just ended isn't delivered, and says so.
            if answer.body != b'{"result":"OK"}' and (await ending(connection, 2)).code != 1012:
                self.trouble.append(f"send: {answer.status} {answer.body!r}")
            self.connects += 1

    async def _ping(self) -> None:
        assert (await request(self.server, "GET", "/ping")).status == 200
        self.pings += 1

    async def _send(self) -> None:
        """As a backend that keeps its connection for as long as the proxy wants that."""
        async with Http.open(self.server.api) as http:
            while keys := [key for key, each in self.held.items() if each.state is State.OPEN]:
                key = keys[self.sends % len(keys)]
                answer = await http.request("POST", "/send", [("X-Kuiperbelt-Session", key)], b"x")
                if answer.body != b'{"result":"OK"}':
                    await asyncio.sleep(0.1)
                    if answer.status != 200 or self.held[key].state is State.OPEN:
                        self.trouble.append(f"send to {key}: {answer.status} {answer.body!r}")
                self.sends += 1
                if answer.one("Connection") == "close":
                    self.moves += 1
                    return
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)

    async def _stats(self) -> None:
        answer = (await request(self.server.api, "GET", "/stats")).json()
        counted = answer["total_connections"] + answer["total_messages"]
        if counted < self.counted:
            self.trouble.append(f"the counters went from {self.counted} to {counted}")
        self.counted = counted


async def deploy(load: Load, installed: Installed) -> None:
    """Replace the workers under load, once."""
    server = load.server
    before = await pids(server)
    async with load.running():
        await asyncio.sleep(0.3)
        command = await installed.command(server)
        output, errors = await said(command)
        assert (command.returncode, errors) == (0, [])
        after = await pids(server)
        assert output == [
            "replacing workers: at once",
            "replacing workers: 2, one by one",
            *(
                f"worker {number} (pid {old}) leaves, pid {new} has taken over"
                for number, old, new in zip((1, 2), before, after, strict=True)
            ),
            "replacing workers: done",
        ]
        assert not {*before} & {*after}
        await until(lambda: settled(load), "all sessions of the old workers to end")
        await asyncio.sleep(0.3)
    assert min(load.connects, load.pings, load.sends) > 30, load
    assert load.moves, "a connection to a worker that leaves is closed after an answer, not under a request"


async def settled(load: Load) -> bool:
    return len(load.ends) == HELD


async def test_nobody_is_refused_and_the_new_code_runs(
    nodes: tuple[Server, Server],
    installed: Installed,
    backend: Backend,
    fresh: Callable[[str], str],
    evidence: Evidence,
) -> None:
    loads = [Load(node, fresh) for node in nodes]
    installed.change("proxy/__init__.py", f'"{proxy.__version__}"', '"99.0"')
    first_counter = '    connections = Counter("live sessions", gauge=sum)\n'
    installed.change(
        "proxy/stats.py", first_counter, '    brand_new = Counter("of the next version")\n' + first_counter
    )
    installed.config.write_text("path:\n  ready: /new-ready\n")
    await asyncio.gather(*(deploy(load, installed) for load in loads))
    trouble = [each for load in loads for each in load.trouble]
    evidence(Figures(len(loads), sum(load.connects + load.pings + load.sends for load in loads), len(trouble)))
    assert trouble == []
    for load in loads:
        for key in load.held:
            (closed,) = await backend.wait("/close", key)
            assert closed.one("X-Kuiperbelt-Close-Reason") == "shutdown"
        # The halves that the workers had went one after the other, each over the window.
        moments = sorted(load.ends.values())
        assert moments[-1] - moments[0] > WINDOW
        for _ in range(10):
            assert (await request(load.server.api, "GET", "/new-ready")).status == 200
        full = (await request(load.server.api, "GET", "/stats?format=full")).json()
        assert full["brand_new"] == 0
        assert full["total_connections"] >= load.connects + HELD
        assert full["connections"] == full["worker_deaths"] == 0
        with contextlib.closing(sqlite3.connect(load.server.env["EKBO_DATABASE_URL"].removeprefix("sqlite:///"))) as db:
            serving = db.execute("select worker, version from proxy_node where ended_at is null order by worker")
            assert serving.fetchall() == [(1, "99.0"), (2, "99.0")]


async def test_code_that_does_not_start_stops_it(nodes: tuple[Server, Server], installed: Installed) -> None:
    server, _ = nodes
    before = await pids(server)
    views = (installed.root / "proxy/views.py").read_text()
    installed.change("proxy/views.py", "import", "im port")
    try:
        command = await installed.command(server)
        _, errors = await said(command)
    finally:
        (installed.root / "proxy/views.py").write_text(views)
    assert command.returncode == 1
    assert errors[-1].startswith("CommandError: worker 1 goes on as it is, its successor failed: worker 1 (pid ")
    assert errors[-1].endswith(") exited with status 1 before it was ready; the proxy's log says more")
    assert await pids(server) == before
    assert "SyntaxError" in server.output()
    server.log.write_text(server.output().replace("Traceback (most", "A traceback (most"))  # expected, for once


async def test_options_that_need_a_restart_stop_it(nodes: tuple[Server, Server], installed: Installed) -> None:
    server, _ = nodes
    before = await pids(server)
    config = installed.config.read_text()
    installed.config.write_text("redis:\n  master: other\n  sentinels: 127.0.0.1:1\nhost: 127.0.0.2\n")
    try:
        server.process.send_signal(signal.SIGUSR2)
        reason = "can't take over from a worker: redis.sentinels, redis.master: changed, but only a restart takes that"

        async def stopped() -> bool:
            return reason in server.output() and "replacing workers: stopped" in server.output().rpartition(reason)[2]

        await until(stopped, "the replacement to stop")
    finally:
        installed.config.write_text(config)
    assert await pids(server) == before


async def test_sigterm_to_one_worker_replaces_it(nodes: tuple[Server, Server], fresh: Callable[[str], str]) -> None:
    _, server = nodes
    before = await pids(server)
    load = Load(server, fresh)
    async with load.running():
        os.kill(before[0], signal.SIGTERM)
        await gone(before[:1])
        await asyncio.sleep(0.2)
    assert load.trouble == []
    after = await pids(server)
    assert after[0] != before[0]
    assert after[1] == before[1]


def children(pid: int) -> list[int]:
    """The process ids of a process's children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_nobody_takes_over_before_it_is_ready_and_sigterm_ends_all(
    nodes: tuple[Server, Server], installed: Installed, own_redis: RedisServer
) -> None:
    """The successor finds no Redis, so its predecessor goes on; then the end comes in the middle of the replacement."""
    server, _ = nodes
    before = await pids(server)
    await own_redis.kill()
    command = await installed.command(server)
    everyone: list[int] = []

    async def begun() -> bool:
        everyone[:] = children(server.process.pid)
        return len(everyone) > WORKERS

    await until(begun, "a successor")

    async def looked() -> bool:
        return "can't be reached, will be tried again" in server.output()

    await until(looked, "the successor to look for Redis")
    await asyncio.sleep(0.5)
    assert await pids(server) == before
    assert (await request(server, "GET", "/ping")).status == 200
    assert "leaves" not in server.output().rpartition("replacing workers: 2")[2]
    impatient = await installed.command(server)
    assert impatient.stdout
    await impatient.stdout.readline()
    impatient.send_signal(signal.SIGINT)
    _, errors = await said(impatient)
    assert (impatient.returncode, len(errors)) == (130, 1)
    assert errors[0].startswith("interrupted; the replacement goes on")
    began = time.monotonic()
    server.process.terminate()
    _, errors = await said(command)
    assert (command.returncode, errors) == (1, ["CommandError: the proxy ends; the proxy's log says more"])
    assert await asyncio.wait_for(server.process.wait(), WINDOW + 5) == 0
    assert time.monotonic() - began < WINDOW + 5
    assert {*before} < {*everyone}
    assert not any(map(alive, everyone))


async def test_no_worker_outlives_its_supervisor(nodes: tuple[Server, Server]) -> None:
    """Those of the code on disk neither."""
    _, server = nodes
    workers = await pids(server)
    os.kill(server.process.pid, signal.SIGKILL)
    await gone(workers)


async def test_nobody_to_ask(servers: Servers) -> None:
    alone = await servers.get("uvicorn")
    alone.process.send_signal(signal.SIGUSR2)
    nobody = alone.env | {"EKBO_PORT": str(free_port())}
    commands = [await reload_workers(ROOT, env) for env in (alone.env, nobody)]
    single, none = [(await said(command))[1] for command in commands]
    assert [command.returncode for command in commands] == [1, 1]
    assert none == [f"CommandError: expected a proxy that serves on 127.0.0.1 port {nobody['EKBO_PORT']}, found none"]
    assert single[0].startswith(f"CommandError: expected a proxy with --workers on 127.0.0.1 port {alone.port}, found ")
    assert "so stop it (SIGTERM) and start it again" in single[0]
    assert (await request(alone, "GET", "/ping")).status == 200
    assert "SIGUSR2: a single process has nobody to take over from it" in alone.output()
