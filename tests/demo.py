"""Starts the demo (examples/chat) for tests: as run.py does, but with a proxy that can be killed and started again."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from examples.chat import run

HOST = "127.0.0.1"
SECRET = "callback-secret-of-the-test"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, held together while they are chosen so that they differ."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in probes]


@dataclass
class Demo:
    """Proxy and chat as run.py starts them, but with a proxy that can be killed and started again."""

    port: int
    demo_port: int
    database: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    proxy: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.demo_port}/"

    def start_chat(self) -> None:
        chat = run.start_demo(HOST, self.demo_port, run.demo_settings(HOST, self.port, SECRET, self.database))
        self.processes.append(chat)
        run.wait_until_up("The chat", chat, self.url, run.Stop())

    def start_proxy(self) -> None:
        self.proxy = run.start_proxy(run.proxy_settings(HOST, self.port, self.demo_port, SECRET))
        self.processes.append(self.proxy)
        run.wait_until_up("The proxy", self.proxy, f"http://{HOST}:{self.port}/ping", run.Stop())

    def kill_proxy(self) -> None:
        assert self.proxy is not None
        os.killpg(self.proxy.pid, signal.SIGKILL)
        self.proxy.wait(run.STOP_LIMIT)

    def stop(self) -> None:
        for process in reversed(self.processes):
            run.stop(process)


@contextmanager
def running_demo(directory: Path) -> Iterator[Demo]:
    port, demo_port = free_ports(2)
    demo = Demo(port, demo_port, directory / "chat.sqlite3")
    try:
        demo.start_chat()
        demo.start_proxy()
        yield demo
    finally:
        demo.stop()
