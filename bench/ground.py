"""The ground of one measured system: the processes beside it, its folder, and whatever ends them all.

Used by bench.run and bench.cluster to start a system; each system starts its own servers on it (bench.system).
"""

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from .processes import Process, clean_environment
from .redis import RedisServer


@dataclass(frozen=True)
class Servers:
    """The started servers of a system. Clients connect to `port`, senders to `send_port` (None: the same)."""

    processes: tuple[Process, ...]
    port: int
    send_port: int | None = None
    redis: RedisServer | None = None


@dataclass(frozen=True)
class Ground:
    """Where a system's processes stand, with a backend of its own on `backend_port`."""

    stack: ExitStack
    folder: Path
    backend_port: int

    def url(self, path: str) -> str:
        """Return the URL of the backend's callback at a path."""
        return f"http://127.0.0.1:{self.backend_port}{path}"

    def launch(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> Process:
        """Start a server."""
        return launch(self.stack, command, environment)

    def redis(self) -> RedisServer:
        """Start a Redis server."""
        server = RedisServer(self.folder)
        self.stack.callback(server.stop)
        server.wait_listening()
        return server

    def load(self, system: str, port: int) -> Process:
        """Start a load process for the clients' port of a system."""
        return launch(self.stack, [sys.executable, "-m", "bench.load", system, str(port)], pipes=True)


def launch(
    stack: ExitStack, command: Sequence[str], environment: Mapping[str, str] | None = None, *, pipes: bool = False
) -> Process:
    """Start a process that the stack ends, with variables beside those that are not the proxy's."""
    process = Process(command, clean_environment() | dict(environment or {}), pipes=pipes)
    stack.callback(process.stop)
    return process


@contextmanager
def ground() -> Iterator[Ground]:
    """Prepare a ground; all that is started on it ends with it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        backend = launch(stack, [sys.executable, "-m", "bench.backend"], pipes=True)
        yield Ground(stack, folder, int(backend.read_line(10)))
