"""Our own systems: the proxy in its several settings, and the bare ASGI application as the yardstick of its servers."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from .ground import Ground, Servers
from .processes import free_port
from .system import System, post

DAPHNE = [sys.executable, "-m", "daphne"]
DAPHNE_FLAGS = ["-b", "127.0.0.1", "--websocket_connect_timeout", "60", "--websocket_timeout", "-1", "-v", "0"]


class BareUvicorn(System):
    """bench.bare on uvicorn."""

    name = "bare-uvicorn"
    note = "asks no backend"
    lacks = frozenset({"receive", "batch"})

    def command(self, on: Ground, port: int) -> list[str]:
        return [sys.executable, "-m", "bench.bare", "--port", str(port)]


class BareDaphne(BareUvicorn):
    """bench.bare on daphne."""

    name = "bare-daphne"

    def command(self, on: Ground, port: int) -> list[str]:
        return [*DAPHNE, "-p", str(port), *DAPHNE_FLAGS, "bench.bare:application"]


class OursUvicorn(System):
    """The proxy as `manage.py runproxy` serves it, without registry."""

    name = "ours-uvicorn"
    note = "EKBO_REGISTRY=false"
    lacks = frozenset() if find_spec("proxy.batch") else frozenset({"batch"})  # an older one answers 404

    def command(self, on: Ground, port: int) -> list[str]:
        return [sys.executable, "manage.py", "runproxy"]

    def environment(self, on: Ground, port: int) -> dict[str, str]:
        return {
            "DJANGO_SETTINGS_MODULE": "kbproject.settings",
            "EKBO_HOST": "127.0.0.1",
            "EKBO_PORT": str(port),
            "EKBO_CONNECT_CALLBACK_URL": on.url("/connect"),
            "EKBO_RECEIVE_CALLBACK_URL": on.url("/receive"),
            "EKBO_SUPPRESS_ACCESS_LOG": "true",
            "EKBO_REGISTRY": "false",
            "EKBO_DRAIN_WINDOW": "0",
        }

    def batch(self, keys: Sequence[str], message: bytes) -> bytes:
        lines = [json.dumps({"session": key, "body": message.decode()}) + "\n" for key in keys]
        return post("/batch", "application/x-ndjson", "".join(lines).encode())

    def accepted(self, response: bytes) -> bool:
        return (
            response.startswith(b"HTTP/1.1 200") and b'"result":"OK"}' in response and b'"result":"NG"' not in response
        )


class OursView(OursUvicorn):
    """The same without the push lane: each push goes through Django's view."""

    name = "ours-view"
    note = "EKBO_REGISTRY=false, EKBO_PUSH_LANE=false"

    def environment(self, on: Ground, port: int) -> dict[str, str]:
        return super().environment(on, port) | {"EKBO_PUSH_LANE": "false"}


class OursUntuned(OursUvicorn):
    """The same with the garbage collector as Python sets it."""

    name = "ours-untuned"
    note = "EKBO_REGISTRY=false, the garbage collector left as it is"
    lacks = frozenset({"fanout", "receive", "batch", "memory"})

    def command(self, on: Ground, port: int) -> list[str]:
        return [sys.executable, "-m", "bench.untuned", "runproxy"]


class OursRegistry(OursUvicorn):
    """The same with its sessions in the embedded database."""

    name = "ours-registry"
    note = "EKBO_REGISTRY=true, SQLite"

    def environment(self, on: Ground, port: int) -> dict[str, str]:
        database = {"EKBO_REGISTRY": "true", "EKBO_DATABASE_URL": f"sqlite:///{on.folder}/registry.sqlite3"}
        return super().environment(on, port) | database


class OursCluster(OursRegistry):
    """Two processes with registry and Redis: the clients are at one of them, the senders at the other."""

    name = "ours-cluster"
    note = (
        "2 processes and Redis, EKBO_REGISTRY=true; each send crosses from one to the other; CPU is that of all three"
    )

    def missing(self) -> str:
        return "" if shutil.which("redis-server") else "redis-server is not on PATH: apt-get install redis-server"

    def versions(self) -> dict[str, str]:
        found = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
        return {"Redis": found.partition("v=")[2].partition(" ")[0]}

    def start(self, on: Ground) -> Servers:
        redis = on.redis()
        ports, processes = (free_port(), free_port()), []
        for port in ports:
            process = on.launch(self.command(on, port), self.environment(on, port) | {"EKBO_REDIS_URL": redis.url})
            process.wait_ready(port, self.ping_path)
            processes.append(process)
        return Servers(tuple(processes), ports[0], ports[1], redis)


class OursDaphne(OursUvicorn):
    """The proxy under daphne."""

    name = "ours-daphne"

    def command(self, on: Ground, port: int) -> list[str]:
        return [*DAPHNE, "-p", str(port), *DAPHNE_FLAGS, "kbproject.asgi:application"]
