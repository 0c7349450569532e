"""`runproxy --workers 2` as processes: they share the load and the counters, are replaced, and end together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.protocol import State

from tests.backend import Answer, Backend
from tests.clients import client, ending, request
from tests.servers import ROOT, WORKERS, Server, Servers, command, free_port

pytestmark = pytest.mark.usefixtures("clean_logs")

FRESH = 10  # connections, each to any of the workers: all to the same one 1 time in 500


@pytest.fixture
async def node(servers: Servers) -> AsyncIterator[Server]:
    """A node of two workers for one test."""
    server = await servers.start("workers", servers.cluster_env())
    await pids(server)
    yield server
    await server.stop()


async def until(condition: Callable[[], Awaitable[bool]], what: str, timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not await condition():
        assert time.monotonic() < deadline, f"waited {timeout} s in vain for {what}"
        await asyncio.sleep(0.05)


async def pids(server: Server) -> list[int]:
    """The workers' process ids, first worker first, when all of them serve."""
    found: list[int] = []

    async def serving() -> bool:
        lines = re.findall(r"worker (\d+) \(pid (\d+)\) listening on", server.output())
        last = {int(number): int(pid) for number, pid in lines}
        found[:] = [last[number] for number in sorted(last) if alive(last[number])]
        return len(found) == WORKERS

    await until(serving, "all workers to serve")
    return found


def alive(pid: int) -> bool:
    """Does the process run? Not if only its parent's wait is missing."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


async def gone(pids: list[int], timeout: float = 10.0) -> None:
    async def none() -> bool:
        return not any(alive(pid) for pid in pids)

    await until(none, f"the processes {pids} to end", timeout)


def sockets(pid: int) -> set[str]:
    """The inodes of a process's sockets."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(entry).removeprefix("socket:[").removesuffix("]"))
    return found


def tcp(port: int) -> dict[int, str]:
    """The inodes of the TCP sockets on this port of ours, by the port at the other end."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(line[2][-4:], 16): line[9] for line in lines if int(line[1][-4:], 16) == port}


async def counted(server: Server, connections: int, total: int) -> None:
    """Wait until /stats says so, whichever worker answers."""
    got = None
    deadline = time.monotonic() + 10
    while got != {(connections, total)} and time.monotonic() < deadline:
        answers = [(await request(server, "GET", "/stats")).json() for _ in range(FRESH)]
        got = {(answer["connections"], answer["total_connections"]) for answer in answers}
    assert got == {(connections, total)}


@contextlib.asynccontextmanager
async def sessions(server: Server, fresh: Callable[[str], str], count: int) -> AsyncIterator[list[ClientConnection]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(client(server, fresh("w"))) for _ in range(count)]


async def test_connections_spread_evenly(node: Server) -> None:
    workers = await pids(node)
    writers = [(await node.open())[1] for _ in range(400)]
    ports = {writer.get_extra_info("sockname")[1] for writer in writers}
    shares: list[int] = []

    async def accepted() -> bool:
        inodes = {inode for port, inode in tcp(node.port).items() if port in ports}
        shares[:] = [len(inodes & sockets(pid)) for pid in workers]
        return sum(shares) == 400

    await until(accepted, "all connections to be accepted")
    assert min(shares) >= 120, shares
    for writer in writers:
        writer.close()


async def test_the_supervisor_has_one_thread(node: Server) -> None:
    """A fork copies only the one that forks, and with it the locks that others hold."""
    assert os.listdir(f"/proc/{node.process.pid}/task") == [str(node.process.pid)]


async def test_stats_count_all_workers(node: Server, fresh: Callable[[str], str]) -> None:
    async with sessions(node, fresh, 20):
        await counted(node, 20, 20)
    await counted(node, 0, 20)


async def test_a_killed_worker_is_replaced(node: Server, fresh: Callable[[str], str]) -> None:
    """Its sessions are gone from the gauges and stay in the totals; who connects meanwhile waits for the next one."""
    before = await pids(node)
    async with sessions(node, fresh, 20) as clients:
        os.kill(before[0], signal.SIGKILL)
        for _ in range(FRESH):
            assert (await request(node, "GET", "/ping")).status == 200
        after = await pids(node)
        assert after[0] != before[0]
        assert after[1] == before[1]

        async def noticed() -> bool:
            return any(client.state is not State.OPEN for client in clients)

        await until(noticed, "clients to notice")
        open_ = sum(client.state is State.OPEN for client in clients)
        await counted(node, open_, 20)
        async with sessions(node, fresh, 10):
            await counted(node, open_ + 10, 30)
    assert f"worker 1 (pid {before[0]}) died of signal 9 (Killed); the next one starts in 0.1 s" in node.output()


async def test_nobody_is_refused_while_all_workers_are_dead(node: Server) -> None:
    for pid in await pids(node):
        os.kill(pid, signal.SIGKILL)
    answers = await asyncio.gather(*(request(node, "GET", "/ping") for _ in range(FRESH)))
    assert [answer.status for answer in answers] == [200] * FRESH


@pytest.mark.parametrize("how", ["SIGTERM", "Ctrl-C"])
async def test_all_end_together(node: Server, how: str, backend: Backend, fresh: Callable[[str], str]) -> None:
    """Every session ends with 1012 and a close callback; a terminal's Ctrl-C goes to all processes at once.

    To uvicorn a second one means to drop everything; here it changes nothing: the callbacks' answers are waited for.
    """
    workers = await pids(node)
    keys = [fresh("w") for _ in range(10)]
    for key in keys:
        backend.on("/close", key, Answer(delay=1.0))
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client(node, key)) for key in keys]
        began = time.monotonic()
        for _ in range(2):
            if how == "SIGTERM":
                node.process.terminate()
            else:
                os.killpg(node.process.pid, signal.SIGINT)
            await asyncio.sleep(0.3)
        assert {(await ending(client)).code for client in clients} == {1012}
    assert await asyncio.wait_for(node.process.wait(), 15) == 0
    assert time.monotonic() - began >= 1.0
    assert not [pid for pid in workers if alive(pid)]
    for key in keys:
        (closed,) = await backend.wait("/close", key)
        assert closed.one("X-Kuiperbelt-Close-Reason") == "shutdown"
    with pytest.raises(ConnectionRefusedError):
        await node.open()


async def test_no_worker_outlives_its_supervisor(node: Server, fresh: Callable[[str], str]) -> None:
    workers = await pids(node)
    async with sessions(node, fresh, 4) as clients:
        os.kill(node.process.pid, signal.SIGKILL)
        assert {(await ending(client)).code for client in clients} == {1012}
    await gone(workers)


@pytest.mark.parametrize("kind", ["uvicorn", "workers"])
async def test_another_proxy_does_not_share_the_port(node: Server, kind: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command(kind, node.port), cwd=ROOT, env=node.env, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 1
    expected = f"CommandError: can't listen on 127.0.0.1 port {node.port}: Address already in use"
    assert errors.decode().splitlines()[-1].startswith(expected)


async def test_port_0_is_one_port_for_all(servers: Servers) -> None:
    server = await servers.launch("workers", servers.cluster_env() | {"EKBO_PORT": "0"})
    await pids(server)
    ports = set(re.findall(r"listening on 127.0.0.1 port (\d+)\n", server.output()))
    assert len(ports) == 1
    assert ports != {"0"}
    await server.stop()


async def test_unix_socket(servers: Servers, tmp_path: Path) -> None:
    """All workers share it; it outlives them and goes with the supervisor."""
    path = tmp_path / "proxy.sock"
    server = await servers.start("workers", servers.cluster_env(), sock=str(path))
    first, _ = await pids(server)
    os.kill(first, signal.SIGTERM)
    await gone([first])
    assert (await pids(server))[0] != first
    assert (await request(server, "GET", "/ping")).status == 200
    assert f"worker 1 (pid {first}) exited with status 0" in server.output()
    assert await server.stop() == 0
    assert not path.exists()


# The supervisor alone, with workers that don't behave.


@dataclass
class Supervised:
    """A supervisor of one worker, unless `prepare` says otherwise, that does `work`; in a process of its own."""

    process: subprocess.Popen[str]

    @classmethod
    @contextlib.contextmanager
    def running(cls, prepare: str, work: str) -> Iterator[Supervised]:
        script = f"""
import errno, logging, os, signal, socket, sys, time
import django
django.setup()
from proxy import workers
logging.basicConfig(format="%(message)s", force=True)
listeners = [socket.socket()]
{prepare}
if workers.Supervisor([(each,) for each in listeners]).fork() is not None:
    {work}
"""
        line = [sys.executable, "-W", "ignore::ResourceWarning", "-c", script]
        with subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield cls(process)
            finally:
                process.terminate()

    def line(self) -> str:
        """The next one that it says."""
        assert self.process.stderr
        return self.process.stderr.readline().rstrip("\n")

    def delay(self) -> str:
        """When the next worker starts, by the next line."""
        return self.line().rpartition(" starts ")[2]

    def end(self) -> str:
        """What it said from here until its end, after SIGTERM, with status 0."""
        self.process.terminate()
        _, errors = self.process.communicate(timeout=10)
        assert self.process.returncode == 0, errors
        return errors


def test_a_worker_that_fails_at_once_is_no_busy_loop() -> None:
    with Supervised.running("", "sys.exit(3)") as supervisor:
        line = supervisor.line()
        assert re.fullmatch(r"worker 1 \(pid \d+\) exited with status 3; the next one starts in 0.1 s", line)
        assert [supervisor.delay() for _ in range(3)] == ["in 0.2 s", "in 0.4 s", "in 0.8 s"]
        supervisor.end()


def test_the_delay_has_an_end() -> None:
    with Supervised.running("workers.MAX_DELAY = 0.15", "sys.exit(0)") as supervisor:
        assert [supervisor.delay() for _ in range(4)] == ["in 0.1 s", "in 0.15 s", "in 0.15 s", "in 0.15 s"]
        supervisor.end()


def test_a_worker_that_lived_for_long_is_replaced_at_once() -> None:
    with Supervised.running("workers.STEADY = 0.2", "time.sleep(0.3); sys.exit(1)") as supervisor:
        assert [supervisor.delay() for _ in range(2)] == ["at once"] * 2
        supervisor.end()


def test_a_fork_that_fails_is_tried_again() -> None:
    prepare = """
fork, tries = os.fork, iter(range(9))
def scarce():
    if next(tries) < 2:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return fork()
os.fork = scarce
"""
    with Supervised.running(prepare, "logging.error('alive'); signal.pause()") as supervisor:
        refused = "worker 1 can't be started: Resource temporarily unavailable; the next one starts in "
        assert [supervisor.line() for _ in range(3)] == [f"{refused}0.1 s", f"{refused}0.2 s", "alive"]
        assert supervisor.end() == ""


def test_a_worker_that_does_not_end_is_killed() -> None:
    work = "signal.signal(workers.END, signal.SIG_IGN); logging.error('alive'); time.sleep(60)"
    with Supervised.running("workers.STOP_LIMIT = 0.5", work) as supervisor:
        assert supervisor.line() == "alive"
        began = time.monotonic()
        errors = supervisor.end()
    assert 0.4 < time.monotonic() - began < 5
    assert "1 worker(s) still there 0.5 s after SIGTERM: killed" in errors
    assert "died of signal 9 (Killed)" in errors


def test_a_listener_is_closed_to_clients_when_the_end_begins() -> None:
    """Otherwise they would wait in its backlog until the last worker has ended."""
    port = free_port()
    prepare = f"listeners = [socket.create_server(('127.0.0.1', {port}))]; workers.STOP_LIMIT = 3"
    busy = "signal.signal(workers.END, lambda *_: listeners[0].close()); logging.error('alive'); time.sleep(60)"
    with Supervised.running(prepare, busy) as supervisor:
        assert supervisor.line() == "alive"
        supervisor.process.terminate()
        time.sleep(0.5)
        assert supervisor.process.poll() is None
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        supervisor.end()


def test_a_worker_holds_no_other_worker_s_socket() -> None:
    work = "logging.error([each.fileno() > 0 for each in listeners]); signal.pause()"
    with Supervised.running("listeners.append(socket.socket())", work) as supervisor:
        assert {supervisor.line() for _ in range(2)} == {"[True, False]", "[False, True]"}
        supervisor.end()
