"""Real Redis servers for tests: single ones that can be killed, stopped and restarted, and a master with Sentinels.

They listen on free ports of the loopback address only, keep nothing on disk, and are ended by their process ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from tests.servers import free_port

START_LIMIT = 20.0  # seconds
STOP_LIMIT = 10.0  # seconds
COMMAND_LIMIT = 5.0  # seconds
DOWN_AFTER = 1000  # milliseconds without an answer after which a Sentinel holds a server for dead
FAILOVER_TIMEOUT = 4000  # milliseconds, the longest that a fail-over takes before the next is tried


async def eventually(condition: Callable[[], Awaitable[bool]], what: str, timeout: float = START_LIMIT) -> float:
    """Wait until `condition` holds and return how long that took; a server that does not answer yet is no error."""
    began = time.monotonic()
    while True:
        with contextlib.suppress(OSError, RedisError, TimeoutError):
            if await condition():
                return time.monotonic() - began
        if time.monotonic() - began > timeout:
            raise AssertionError(f"waited {timeout} s in vain for {what}")
        await asyncio.sleep(0.05)


@dataclass
class RedisServer:
    """One `redis-server` (or, by its configuration file, one Sentinel). Its port stays the same over restarts."""

    password: str = ""
    arguments: tuple[str, ...] = ()
    """Further arguments of the command line, as in ("--maxmemory", "1mb")."""
    config: str = ""
    """Contents of a configuration file, which goes first on the command line."""
    port: int = field(default_factory=free_port)
    process: asyncio.subprocess.Process | None = None
    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="kuiperbelt-redis-")))

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, password: str = "", *arguments: str) -> AsyncIterator[RedisServer]:
        """A server that only this test uses."""
        server = cls(password, arguments)
        try:
            await server.start()
            yield server
        finally:
            await server.end()

    @property
    def url(self) -> str:
        """What EKBO_REDIS_URL takes."""
        return f"redis://{f':{self.password}@' if self.password else ''}127.0.0.1:{self.port}/0"

    def command_line(self) -> list[str]:
        """How it is started."""
        line = ["redis-server"]
        if self.config:
            path = self.directory / "redis.conf"
            # A Sentinel writes what it has learnt into its file, and needs it when it starts again.
            if not path.exists():
                path.write_text(self.config)
            line.append(str(path))
        line += ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory)]
        if "sentinel monitor" in self.config:
            return [*line, "--sentinel"]
        line += ["--save", "", "--appendonly", "no", *self.arguments]
        return [*line, "--requirepass", self.password] if self.password else line

    async def start(self) -> None:
        """Start the process and wait until it answers."""
        assert self.process is None, "it runs already"
        with (self.directory / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command_line(), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        await eventually(self._answers, f"Redis on port {self.port}")

    async def _answers(self) -> bool:
        if self.process is None or self.process.returncode is not None:
            raise AssertionError(f"Redis on port {self.port} ended:\n{self.log()}")
        return bool(await self.execute("PING"))

    async def stop(self) -> None:
        """End it by SIGTERM, by SIGKILL if that does not help."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """End it by SIGKILL."""
        await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        # Not by the process's own methods: they look whether it lives, and may so take its end from asyncio's watcher.
        for each in (number, signal.SIGCONT):
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, each)
        try:
            async with asyncio.timeout(STOP_LIMIT):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def restart(self) -> None:
        """End it at once and start it anew, empty, on the same port."""
        await self.kill()
        await self.start()

    def pause(self) -> None:
        """Hang it: its connections stay open, and nobody gets an answer."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)

    async def end(self) -> None:
        """Stop it for good, and remove its files."""
        await self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self) -> str:
        """All that it printed."""
        return (self.directory / "log").read_text(errors="replace")

    async def execute(self, *command: str | bytes | int) -> Any:
        """The answer to one command, on a connection of its own, without a second try."""
        client = Redis(
            host="127.0.0.1",
            port=self.port,
            password=self.password or None,
            socket_timeout=COMMAND_LIMIT,
            protocol=3,
            decode_responses=True,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]
        finally:
            await client.aclose()


def sentinel_config(name: str, master: RedisServer, quorum: int) -> str:
    """The configuration file of a Sentinel."""
    login = f"sentinel auth-pass {name} {master.password}\n" if master.password else ""
    return (
        f"sentinel monitor {name} 127.0.0.1 {master.port} {quorum}\n"
        f"sentinel down-after-milliseconds {name} {DOWN_AFTER}\n"
        f"sentinel failover-timeout {name} {FAILOVER_TIMEOUT}\n{login}"
    )


@dataclass
class Sentinels:
    """One master, its replicas, and three Sentinels over them."""

    name: str = "kuiperbelt"
    password: str = ""
    """Of the servers; the Sentinels have none."""
    servers: list[RedisServer] = field(default_factory=list)
    """The first one starts as the master."""
    sentinels: list[RedisServer] = field(default_factory=list)

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, replicas: int = 1, count: int = 3, password: str = "") -> AsyncIterator[Sentinels]:
        """All processes, once the Sentinels know each other, the master and the replicas."""
        group = cls(password=password)
        try:
            await group.start(replicas, count)
            yield group
        finally:
            await asyncio.gather(*(server.end() for server in [*group.sentinels, *group.servers]))

    @property
    def addresses(self) -> str:
        """What EKBO_REDIS_SENTINELS takes."""
        return ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)

    async def start(self, replicas: int, count: int) -> None:
        """Start all; replicas first, because Sentinels look for them only every 10 s."""
        quick: tuple[str, ...] = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
        quick += ("--masterauth", self.password) if self.password else ()
        master = RedisServer(self.password, quick)
        follow = ("--replicaof", "127.0.0.1", str(master.port))
        self.servers = [master, *(RedisServer(self.password, (*quick, *follow)) for _ in range(replicas))]
        for server in self.servers:
            await server.start()

        async def replicated() -> bool:
            states = [(await server.execute("ROLE"))[3] for server in self.servers[1:]]
            return all(state == "connected" for state in states) and len((await master.execute("ROLE"))[2]) == replicas

        await eventually(replicated, "the replicas to be connected")
        config = sentinel_config(self.name, master, count // 2 + 1)
        self.sentinels = [RedisServer(config=config) for _ in range(count)]
        for sentinel in self.sentinels:
            await sentinel.start()
        await self.agreed()

    async def agreed(self, other_than: RedisServer | None = None, timeout: float = 60.0) -> RedisServer:
        """Wait until all running Sentinels name one master, which says so itself, and return it."""
        found: list[RedisServer] = []

        async def same() -> bool:
            found[:] = [await self.master()]
            return found[0] is not other_than and (await found[0].execute("ROLE"))[0] == "master"

        await eventually(same, "the Sentinels to agree on a master that is up", timeout)
        return found[0]

    async def master(self) -> RedisServer:
        """Whom the Sentinels name; TimeoutError if they don't agree, or don't know each other yet."""
        ports = set()
        alive = [sentinel for sentinel in self.sentinels if sentinel.process]
        for sentinel in alive:
            fields = await sentinel.execute("SENTINEL", "MASTER", self.name)
            known = int(fields["num-other-sentinels"]), int(fields["num-slaves"])
            if known < (len(self.sentinels) - 1, len(self.servers) - 1) or known[1] < len(self.servers) - 1:
                raise TimeoutError(f"a Sentinel knows only {known} others and replicas")
            ports.add(int(fields["port"]))
        if len(ports) != 1:
            raise TimeoutError(f"the Sentinels name the masters {sorted(ports)}")
        return next(server for server in self.servers if server.port in ports)
