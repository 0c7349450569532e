"""Starts the proxy as users do, under uvicorn or daphne, alone or as a cluster, and reads its log.

Servers live until the session ends, so that a table of cases pays for each configuration once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import secrets
import signal
import socket
import ssl
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.backend import Backend

ROOT = Path(__file__).resolve().parent.parent
ALONE = ("uvicorn", "daphne")
"""Kinds of one process."""
KINDS = (*ALONE, "cluster")
"""Those, and two uvicorn nodes on one Redis: clients connect to the first, pushes arrive at the second."""
START_LIMIT = 30.0  # seconds
STOP_LIMIT = 15.0  # seconds
WORKERS = 2  # processes of a node of the kind "workers"

TROUBLE = re.compile(
    r"Traceback \(most recent call last\)|Task was destroyed|never retrieved|never awaited|ResourceWarning"
    r"|Unhandled [Ee]rror|Fatal Python error"
)
"""What a server's log must never hold, whatever clients, callers and backends do. What is left open, Python says in its
development mode only (`make debug`)."""
SLOW = re.compile(r"Executing <.* took (\d+\.\d+) seconds")
"""What asyncio's debug mode says of a callback that held the event loop up (`make debug`)."""
SLOW_LIMIT = 1.0
"""Seconds. asyncio's own 0.1 s is passed by anything when several processes share two cores, with debug mode on: 1.2 s
at a load of 30 were the worst of 22 files of tests. uvloop times tasks and timers, not what comes in from sockets."""

Address = tuple[str, int] | str
"""Host and port, or the path of a UNIX socket."""


def free_port() -> int:
    """A port that nobody listens on right now.

    Not one of those that the kernel gives to outgoing connections, which might take it before it is used.
    """
    for _ in range(1000):
        port = 10_000 + secrets.randbelow(22_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port between 10,000 and 32,000")


def environment(backend_port: int, env: Mapping[str, str]) -> dict[str, str]:
    """The environment of a server: all callbacks to the backend, then `env`; an empty value takes a variable away.

    `{backend}` in a value stands for the backend's host and port.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("EKBO_", "DJANGO_"))}
    callbacks = {
        f"EKBO_{name}_CALLBACK_URL": f"http://{{backend}}/{name.lower()}"
        for name in ("CONNECT", "ESTABLISH", "RECEIVE", "CLOSE")
    }
    ours = {"EKBO_HOST": "127.0.0.1", "EKBO_CALLBACK_TIMEOUT": "3s", "EKBO_DRAIN_WINDOW": "0"} | callbacks | dict(env)
    filled = {name: value.replace("{backend}", f"127.0.0.1:{backend_port}") for name, value in ours.items() if value}
    return inherited | {"PYTHONUNBUFFERED": "1"} | filled


def command(kind: str, port: int, sock: str = "") -> list[str]:
    """The command line that serves the proxy: on a port, or on a UNIX socket if one is given."""
    if kind in ("uvicorn", "workers"):
        workers = ["--workers", str(WORKERS)] if kind == "workers" else []
        return [sys.executable, "manage.py", "runproxy", *workers]
    module = ["tests.instrumented"] if "instrumented" in kind else ["daphne"]
    if kind == "instrumented":
        return [sys.executable, "-m", *module]
    place = ["-u", sock] if sock else ["-b", "127.0.0.1", "-p", str(port)]
    limits = ["--websocket_connect_timeout", "60", "--websocket_timeout", "-1", "-v", "0"]
    return [sys.executable, "-m", *module, *place, *limits, "kbproject.asgi:application"]


async def spawn(
    kind: str, port: int, sock: str, env: Mapping[str, str], log: Path, root: Path = ROOT
) -> asyncio.subprocess.Process:
    """Start the proxy's process; the log is added to."""
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *command(kind, port, sock),
            cwd=root,
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # A node of several processes is killed and stopped as a whole.
            process_group=0 if kind == "workers" else None,
        )


@dataclass
class Server:
    """One running proxy."""

    kind: str
    env: dict[str, str]
    port: int
    log: Path
    process: asyncio.subprocess.Process
    ping_path: str = "/ping"
    sock: str = ""
    peer: Server | None = None
    root: Path = ROOT
    """Where its code is."""
    was_paused: bool = False
    server_errors: list[str] = field(default_factory=list)
    """Requests that were answered 500 although no backend did."""

    @property
    def api(self) -> Server:
        """Where the backend pushes to this one's sessions: here, its own listener, or another node of its cluster."""
        if self.peer:
            return self.peer
        port, sock = self.env.get("EKBO_API_PORT", ""), self.env.get("EKBO_API_SOCK", "")
        if not (port or sock):
            return self
        listener = ("EKBO_API_PORT", "EKBO_API_SOCK", "EKBO_TLS_CERT")
        env = {name: value for name, value in self.env.items() if name not in listener}
        return replace(self, port=int(port or self.port), sock=sock, env=env)

    @property
    def tls(self) -> ssl.SSLContext | None:
        """What a client needs that trusts this server's certificate; None: it serves without TLS."""
        certificate = self.env.get("EKBO_TLS_CERT")
        if not certificate:
            return None
        context = ssl.create_default_context(cafile=certificate)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself, whoever has signed it
        return context

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self.sock or ("127.0.0.1", self.port)

    @property
    def host(self) -> str:
        """What a client writes into its Host header."""
        return f"127.0.0.1:{self.port}"

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A new connection to it."""
        if isinstance(self.address, str):
            return await asyncio.open_unix_connection(self.address, limit=4 * 1024 * 1024)
        return await asyncio.open_connection(*self.address, limit=4 * 1024 * 1024, ssl=self.tls)

    async def ready(self) -> None:
        """Wait until /ping answers 200, and in a cluster /ready too."""
        await self._answers(self.ping_path)
        if "EKBO_REDIS_URL" in self.env or "EKBO_REDIS_SENTINELS" in self.env:
            await self.api._answers("/ready")

    async def _answers(self, path: str) -> None:
        deadline = time.monotonic() + START_LIMIT
        while time.monotonic() < deadline:
            if self.process.returncode is not None:
                raise AssertionError(f"{self.kind} exited with {self.process.returncode}:\n{self.output()}")
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                async with asyncio.timeout(2):
                    reader, writer = await self.open()
                    try:
                        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                        head = await reader.readuntil(b"\r\n")
                    finally:
                        writer.close()
                    if b" 200 " in head:
                        return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{self.kind} not ready after {START_LIMIT} s:\n{self.output()}")

    def output(self) -> str:
        """All that it printed so far."""
        return self.log.read_text(errors="replace")

    def complaints(self) -> list[str]:
        """Why this server was not in order: tracebacks, answers of 500."""
        output = self.output()
        found = [f"{self.kind} {self.env_summary()}: {error}" for error in self.server_errors]
        if match := TROUBLE.search(output):
            around = output[max(0, match.start() - 400) : match.start() + 2500]
            found.append(f"{self.kind} {self.env_summary()}: {match[0]} in its log:\n{around}")
        # A process that was hanged counts the pause as well. And debug mode notes a stack for each future and looks at
        # files for it: up to seconds under libfaketime.
        timed = not self.was_paused and "LD_PRELOAD" not in self.env
        slow = [match[0] for match in SLOW.finditer(output) if timed and float(match[1]) > SLOW_LIMIT]
        return found + [f"{self.kind} {self.env_summary()}: {line}" for line in slow]

    def env_summary(self) -> str:
        """What was configured, for messages."""
        return str({name: value for name, value in self.env.items() if name.startswith("EKBO_")})

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all its processes."""
        send = os.killpg if self.kind == "workers" else os.kill
        with contextlib.suppress(ProcessLookupError):
            send(self.process.pid, number)

    async def kill(self) -> None:
        """End all its processes by SIGKILL."""
        self.signal(signal.SIGKILL)
        await self.process.wait()

    def pause(self) -> None:
        """Hang it."""
        self.was_paused = True
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    async def restart(self) -> None:
        """Start it anew after its end, at the same place, and wait until it is ready."""
        assert self.process.returncode is not None, "it runs still"
        self.process = await spawn(self.kind, self.port, self.sock, self.env, self.log, self.root)
        await self.ready()

    async def stop(self) -> int:
        """End it by SIGTERM, by SIGKILL if that does not help, and return its exit code; its peer ends too."""
        peer = asyncio.create_task(self.peer.stop()) if self.peer else None
        code = await self._stop()
        if peer:
            await peer
        return code

    async def _stop(self) -> int:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            self.resume()
            try:
                async with asyncio.timeout(STOP_LIMIT):
                    await self.process.wait()
            except TimeoutError:
                await self.kill()
                self.server_errors.append(f"was still running {STOP_LIMIT} s after SIGTERM")
        code = self.process.returncode
        assert code is not None
        return code


@dataclass
class Servers:
    """All servers of a test session."""

    backend: Backend
    logs: Path
    redis_url: str
    """Of the clusters, each of which has a prefix of its own."""
    running: dict[tuple[str, frozenset[tuple[str, str]]], Server] = field(default_factory=dict)
    everyone: list[Server] = field(default_factory=list)
    told: set[int] = field(default_factory=set)
    """Process ids of servers that were complained about."""
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    async def get(self, kind: str, env: Mapping[str, str] | None = None, ping_path: str = "/ping") -> Server:
        """The server of this kind and configuration, started if need be."""
        name = kind, frozenset((env or {}).items())
        if name not in self.running:
            self.running[name] = await self.start(kind, env, ping_path)
        return self.running[name]

    async def start(
        self,
        kind: str,
        env: Mapping[str, str] | None = None,
        ping_path: str = "/ping",
        sock: str = "",
        root: Path = ROOT,
    ) -> Server:
        """A new server that no other test uses, once it is ready. A cluster's first node knows the other."""
        if kind == "cluster":
            env = self.cluster_env() | dict(env or {})
            front, api = await asyncio.gather(
                self.start("uvicorn", env, ping_path, sock), self.start("uvicorn", env, ping_path, sock and f"{sock}-2")
            )
            front.peer = api
            return front
        server = await self.launch(kind, env or {}, ping_path, sock, root)
        await server.ready()
        return server

    def cluster_env(self) -> dict[str, str]:
        """What makes servers a cluster, and no other ones; they have one database."""
        prefix = f"test{next(self._numbers)}"
        return {"EKBO_REDIS_URL": self.redis_url, "EKBO_REDIS_PREFIX": prefix} | self.database_env(prefix)

    def database_env(self, name: str) -> dict[str, str]:
        """An embedded database of this name; whoever has the same shares it."""
        return {"EKBO_DATABASE_URL": f"sqlite:///{self.logs}/{name}.sqlite3"}

    async def launch(
        self, kind: str, env: Mapping[str, str], ping_path: str = "/ping", sock: str = "", root: Path = ROOT
    ) -> Server:
        """Start the process without waiting for it."""
        port = free_port()
        full = environment(self.backend.port, self.database_env(f"port{port}") | dict(env))
        # daphne gets its place on the command line, so the proxy has to find out by itself where it listens.
        if "daphne" not in kind:
            place = {"EKBO_UNIX_DOMAIN_SOCKET_FILENAME": sock} if sock else {"EKBO_PORT": str(port)}
            full = place | full
        log = self.logs / f"{next(self._numbers)}-{kind}.log"
        process = await spawn(kind, port, sock, full, log, root)
        server = Server(kind, full, port, log, process, ping_path, sock, root=root)
        self.everyone.append(server)
        return server

    def complaints(self) -> list[str]:
        """What was wrong with any server; each server is complained about once, and all are stopped in the end."""
        found: list[str] = []
        for server in self.everyone:
            if server.process.pid not in self.told and (complaints := server.complaints()):
                found += complaints
                self.told.add(server.process.pid)
        return found

    async def stop(self) -> None:
        """End every process that was started here."""
        await asyncio.gather(*(server.stop() for server in self.everyone))
