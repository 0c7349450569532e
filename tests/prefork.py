"""A backend as most of them are: gunicorn with two blocking workers. It writes down what it was asked, and when.

`PREFORK` in its environment is a JSON object: by path, the seconds that a worker is busy with a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from tests.servers import ROOT, free_port

WORKERS = 2


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The WSGI application: everybody is welcome under the key they ask for, but strangers aren't."""
    began = time.monotonic()
    path = environ["PATH_INFO"]
    key = environ.get("HTTP_X_KUIPERBELT_SESSION") or parse_qs(environ["QUERY_STRING"]).get("key", ["?"])[0]
    said = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    time.sleep(json.loads(os.environ["PREFORK"]).get(path, 0))
    event = environ.get("HTTP_X_KUIPERBELT_EVENT_ID", "")
    line = json.dumps({"path": path, "key": key, "event": event, "began": began, "ended": time.monotonic()})
    with open(os.environ["PREFORK_RECORD"], "a") as record:
        record.write(f"{line}\n")
    if path == "/connect" and key.startswith("stranger"):
        start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"nobody knows you"]
    body = b"heard %d bytes" % len(said) if path == "/receive" else b""
    start_response("200 OK", [("X-Kuiperbelt-Session", key), ("Content-Length", str(len(body)))])
    return [body]


@dataclass
class Prefork:
    """The running backend."""

    port: int
    record: Path
    process: asyncio.subprocess.Process

    @property
    def env(self) -> dict[str, str]:
        """What has a proxy call it."""
        return {
            f"EKBO_{name}_CALLBACK_URL": f"http://127.0.0.1:{self.port}/{name.lower()}"
            for name in ("CONNECT", "RECEIVE", "CLOSE")
        } | {"EKBO_ESTABLISH_CALLBACK_URL": ""}

    def asked(self, path: str) -> list[dict[str, Any]]:
        """What it has answered at this path, in order."""
        lines = [json.loads(line) for line in self.record.read_text().splitlines()]
        return [line for line in lines if line["path"] == path]

    async def answered(self, path: str, count: int, timeout: float = 10.0) -> list[dict[str, Any]]:
        """Wait until it has answered so often at this path."""
        deadline = time.monotonic() + timeout
        while len(found := self.asked(path)) < count:
            assert time.monotonic() < deadline, f"{path}: expected {count}, found {len(found)}"
            await asyncio.sleep(0.02)
        return found

    def signal(self, number: signal.Signals) -> None:
        """To its master and all workers."""
        os.killpg(self.process.pid, number)


@contextlib.asynccontextmanager
async def prefork(directory: Path, **seconds: float) -> AsyncIterator[Prefork]:
    """Start it; `seconds` by path, without the slash."""
    port, record = free_port(), directory / "record"
    record.touch()
    env = os.environ | {
        "PREFORK": json.dumps({f"/{name}": value for name, value in seconds.items()}),
        "PREFORK_RECORD": str(record),
    }
    with (directory / "gunicorn.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gunicorn", "--workers", str(WORKERS), "--bind", f"127.0.0.1:{port}"),
            *("--graceful-timeout", "1", "--no-control-socket", "tests.prefork:application"),
            cwd=ROOT,
            env=env,
            stdout=log,
            stderr=log,
            process_group=0,
        )
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            await asyncio.sleep(0.05)
        yield Prefork(port, record, process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGCONT)
            process.terminate()
        await process.wait()
