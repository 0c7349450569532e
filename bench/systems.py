"""The systems under test, one small class each: how to start it, where to connect, how to push.

Used by bench.run (to start the server) and by bench.load (to talk to it). A peer is added by a class here.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
DAPHNE = [sys.executable, "-m", "daphne"]
DAPHNE_FLAGS = ["-b", "127.0.0.1", "--websocket_connect_timeout", "60", "--websocket_timeout", "-1", "-v", "0"]


class System:
    """A server under test. Subclasses name it and give its command; the rest has kuiperbelt's shape as default."""

    name: str
    ping_path = "/ping"
    note = ""

    def command(self, port: int) -> list[str]:
        """Return the command that serves on 127.0.0.1:port; it is run in the project's root."""
        raise NotImplementedError

    def environment(self, port: int, backend_url: str, folder: Path) -> dict[str, str]:
        """Return the variables to add to the environment of the server."""
        return {}

    def connect_target(self, key: str) -> str:
        """Return the request target of the WebSocket handshake for the session `key`."""
        return f"/connect?key={key}"

    def push(self, keys: Sequence[str], size: int) -> tuple[bytes, bytes]:
        """Return what stands before and after a message of `size` bytes in the HTTP request that pushes it."""
        lines = ["POST /send HTTP/1.1", "Host: 127.0.0.1", "Content-Type: text/plain", f"Content-Length: {size}"]
        lines += [f"X-Kuiperbelt-Session: {key}" for key in keys]
        return "\r\n".join([*lines, "", ""]).encode(), b""

    def accepted(self, response: bytes) -> bool:
        """Tell whether the HTTP response says that every session got the message."""
        return response.startswith(b"HTTP/1.1 200") and b'{"result":"OK"}' in response


class BareUvicorn(System):
    """bench.bare on uvicorn."""

    name = "bare-uvicorn"

    def command(self, port: int) -> list[str]:
        return [sys.executable, "-m", "bench.bare", "--port", str(port)]


class BareDaphne(System):
    """bench.bare on daphne."""

    name = "bare-daphne"

    def command(self, port: int) -> list[str]:
        return [*DAPHNE, "-p", str(port), *DAPHNE_FLAGS, "bench.bare:application"]


class OursUvicorn(System):
    """The proxy as `manage.py runproxy` serves it."""

    name = "ours-uvicorn"
    note = "EKBO_SUPPRESS_ACCESS_LOG=true, EKBO_REGISTRY=false"

    def command(self, port: int) -> list[str]:
        return [sys.executable, "manage.py", "runproxy"]

    def environment(self, port: int, backend_url: str, folder: Path) -> dict[str, str]:
        return {
            "DJANGO_SETTINGS_MODULE": "kbproject.settings",
            "EKBO_HOST": "127.0.0.1",
            "EKBO_PORT": str(port),
            "EKBO_CONNECT_CALLBACK_URL": backend_url,
            "EKBO_SUPPRESS_ACCESS_LOG": "true",
            "EKBO_REGISTRY": "false",
            "EKBO_DRAIN_WINDOW": "0",
        }


class OursRegistry(OursUvicorn):
    """The same with its sessions in the embedded database."""

    name = "ours-registry"
    note = "EKBO_SUPPRESS_ACCESS_LOG=true, EKBO_REGISTRY=true, SQLite"

    def environment(self, port: int, backend_url: str, folder: Path) -> dict[str, str]:
        ours = super().environment(port, backend_url, folder)
        return ours | {"EKBO_REGISTRY": "true", "EKBO_DATABASE_URL": f"sqlite:///{folder}/registry.sqlite3"}


class OursDaphne(OursUvicorn):
    """The proxy under daphne."""

    name = "ours-daphne"

    def command(self, port: int) -> list[str]:
        return [*DAPHNE, "-p", str(port), *DAPHNE_FLAGS, "kbproject.asgi:application"]


SYSTEMS: dict[str, System] = {
    system.name: system for system in (OursUvicorn(), BareUvicorn(), OursRegistry(), OursDaphne(), BareDaphne())
}


def clean_environment() -> dict[str, str]:
    """Return our environment less the proxy's own variables, so that no setting of the shell bends a measurement."""
    return {name: value for name, value in os.environ.items() if not name.startswith("EKBO_")}
