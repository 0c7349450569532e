"""Starts the demo (examples/chat) for tests: as run.py does, but with a proxy that can be killed and started again."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from examples.chat import run
from tests.servers import free_port

HOST = "127.0.0.1"
SECRET = "callback-secret-of-the-test"


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
    port, demo_port = free_port(), free_port()
    demo = Demo(port, demo_port, directory / "chat.sqlite3")
    try:
        demo.start_chat()
        demo.start_proxy()
        yield demo
    finally:
        demo.stop()
