"""Starts the proxy under uvicorn and daphne as users do, one process per (server, configuration), and reads its log.

Servers live until the session ends, so that a table of cases pays for each configuration once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.backend import Backend

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("uvicorn", "daphne")
START_LIMIT = 30.0  # seconds
STOP_LIMIT = 15.0  # seconds

TROUBLE = re.compile(r"Traceback \(most recent call last\)|Task was destroyed|never retrieved|Unhandled [Ee]rror")
"""What a server's log must never hold, whatever clients, callers and backends do."""

Address = tuple[str, int] | str
"""Host and port, or the path of a UNIX socket."""


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def environment(backend_port: int, env: Mapping[str, str]) -> dict[str, str]:
    """The environment of a server: all callbacks to the backend, then `env`; an empty value takes a variable away.

    `{backend}` in a value stands for the backend's host and port.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("EKBO_", "DJANGO_"))}
    callbacks = {
        f"EKBO_{name}_CALLBACK_URL": f"http://{{backend}}/{name.lower()}"
        for name in ("CONNECT", "ESTABLISH", "RECEIVE", "CLOSE")
    }
    ours = {"EKBO_HOST": "127.0.0.1", "EKBO_CALLBACK_TIMEOUT": "3s"} | callbacks | dict(env)
    filled = {name: value.replace("{backend}", f"127.0.0.1:{backend_port}") for name, value in ours.items() if value}
    return inherited | {"PYTHONUNBUFFERED": "1"} | filled


def command(kind: str, port: int, sock: str = "") -> list[str]:
    """The command line that serves the proxy: on a port, or on a UNIX socket if one is given."""
    if kind == "uvicorn":
        return [sys.executable, "manage.py", "runproxy"]
    place = ["-u", sock] if sock else ["-b", "127.0.0.1", "-p", str(port)]
    limits = ["--websocket_connect_timeout", "60", "--websocket_timeout", "-1", "-v", "0"]
    return [sys.executable, "-m", "daphne", *place, *limits, "kbproject.asgi:application"]


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
    server_errors: list[str] = field(default_factory=list)
    """Requests that were answered 500 although no backend did."""

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
        return await asyncio.open_connection(*self.address, limit=4 * 1024 * 1024)

    async def ready(self) -> None:
        """Wait until /ping answers 200."""
        deadline = time.monotonic() + START_LIMIT
        while time.monotonic() < deadline:
            if self.process.returncode is not None:
                raise AssertionError(f"{self.kind} exited with {self.process.returncode}:\n{self.output()}")
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                async with asyncio.timeout(2):
                    reader, writer = await self.open()
                    writer.write(f"GET {self.ping_path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                    head = await reader.readuntil(b"\r\n")
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
        return found

    def env_summary(self) -> str:
        """What was configured, for messages."""
        return str({name: value for name, value in self.env.items() if name.startswith("EKBO_")})

    async def stop(self) -> int:
        """End it by SIGTERM, by SIGKILL if that does not help, and return its exit code."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_LIMIT):
                    await self.process.wait()
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
                self.server_errors.append(f"was still running {STOP_LIMIT} s after SIGTERM")
        code = self.process.returncode
        assert code is not None
        return code


@dataclass
class Servers:
    """All servers of a test session."""

    backend: Backend
    logs: Path
    running: dict[tuple[str, frozenset[tuple[str, str]]], Server] = field(default_factory=dict)
    everyone: list[Server] = field(default_factory=list)
    told: set[int] = field(default_factory=set)
    """Process ids of servers that were complained about."""

    async def get(self, kind: str, env: Mapping[str, str] | None = None, ping_path: str = "/ping") -> Server:
        """The server of this kind and configuration, started if need be."""
        name = kind, frozenset((env or {}).items())
        if name not in self.running:
            self.running[name] = await self.start(kind, env, ping_path)
        return self.running[name]

    async def start(
        self, kind: str, env: Mapping[str, str] | None = None, ping_path: str = "/ping", sock: str = ""
    ) -> Server:
        """A new server that no other test uses, once it is ready."""
        server = await self.launch(kind, env or {}, ping_path, sock)
        await server.ready()
        return server

    async def launch(self, kind: str, env: Mapping[str, str], ping_path: str = "/ping", sock: str = "") -> Server:
        """Start the process without waiting for it."""
        port = free_port()
        full = environment(self.backend.port, env)
        # daphne gets its place on the command line, so the proxy has to find out by itself where it listens.
        if kind == "uvicorn":
            place = {"EKBO_UNIX_DOMAIN_SOCKET_FILENAME": sock} if sock else {"EKBO_PORT": str(port)}
            full = place | full
        log = self.logs / f"{len(self.everyone)}-{kind}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *command(kind, port, sock),
                cwd=ROOT,
                env=full,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        server = Server(kind, full, port, log, process, ping_path, sock)
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
