"""SIGHUP: API keys change without a restart, and without an end of any connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy import reload
from tests.clients import Http, client, request
from tests.servers import Server, Servers

pytestmark = pytest.mark.usefixtures("clean_logs")

OLD, NEW, YAML_KEY = "the-old-key-of-16", "the-new-key-of-16", "the-yaml-key-of-16"


def test_what_fails_is_said_and_holds_up_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def bad() -> None:
        raise ValueError("expected this, found that")

    done = []
    monkeypatch.setattr(reload, "_sources", {})
    reload.on_reload("first", bad)
    reload.on_reload("second", lambda: done.append(1))
    with caplog.at_level(logging.INFO, "proxy.reload"):
        reload.reload()
    assert done == [1]
    assert [record.getMessage() for record in caplog.records] == [
        "first: not read anew, what was in use stays: expected this, found that",
        "second: read anew",
    ]


async def push(http: Http, key: str, api_key: str) -> int:
    headers = [("X-Kuiperbelt-Session", key), ("Authorization", f"Bearer {api_key}")]
    return (await http.request("POST", "/send", headers, b"x")).status


async def hang_up(server: Server, condition: Callable[[str], bool]) -> None:
    """SIGHUP, and wait until the new lines of the log fulfil the condition."""
    before = len(server.output())
    server.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 10
    while not condition(server.output()[before:]):
        assert time.monotonic() < deadline, server.output()[before:]
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", ["uvicorn", "workers"])
async def test_keys_rotate(servers: Servers, tmp_path: Path, key: str, kind: str) -> None:
    keys, config = tmp_path / "keys", tmp_path / "config.yml"
    keys.write_text(f"{OLD}\n")
    config.write_text(f"api_keys: [{YAML_KEY}]\n")
    env = {"EKBO_API_KEYS_FILE": str(keys), "EKBO_CONFIG": str(config)}
    server = await servers.start(kind, env | (servers.cluster_env() if kind == "workers" else {}))
    said = 3 if kind == "workers" else 1  # the supervisor and each of two workers

    async def check(**expected: int) -> None:
        found = {name: await push(http, key, value) for name, value in by_name.items()}
        assert found == expected

    by_name = {"old": OLD, "new": NEW, "yaml": YAML_KEY}
    async with client(server, key) as connection, Http.open(server) as http:
        await check(old=200, new=401, yaml=200)
        keys.write_text(f"{OLD}\n{NEW}\n")
        await check(old=200, new=401, yaml=200)
        await hang_up(server, lambda log: log.count("configuration: read anew") == said)
        await check(old=200, new=200, yaml=200)
        keys.write_text(f"{NEW}\n")
        config.write_text("idle_timeout: 5s\n")
        await hang_up(server, lambda log: log.count("configuration: read anew") == said)
        assert "idle_timeout: changed, but only a restart takes that" in server.output()
        await check(old=401, new=200, yaml=401)
        keys.write_text("short\n")
        await hang_up(server, lambda log: log.count("configuration: not read anew, what was in use stays") == said)
        assert "short" not in server.output()
        keys.unlink()
        await hang_up(server, lambda log: log.count("configuration: not read anew, what was in use stays") == said)
        await check(old=401, new=200, yaml=401)
        assert connection.close_code is None
    assert await server.stop() == 0


@pytest.mark.parametrize("kind", ["uvicorn", "workers"])
async def test_a_process_that_drains_rotates_its_keys_too(
    servers: Servers, tmp_path: Path, fresh: Callable[[str], str], kind: str
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"{OLD}\n")
    env = {"EKBO_API_KEYS_FILE": str(keys), "EKBO_DRAIN_WINDOW": "60s"}
    server = await servers.start(kind, env | (servers.cluster_env() if kind == "workers" else {}))
    drained = 2 if kind == "workers" else 1  # processes

    async def answers() -> list[int]:
        """To the old key and the new one; a process that drains closes each connection after an answer."""
        found = []
        for each in (OLD, NEW):
            async with Http.open(server) as http:
                found.append(await push(http, "nobody", each))
        return found

    async with contextlib.AsyncExitStack() as stack:
        for _ in range(40):  # or a worker may have none, and end at once
            await stack.enter_async_context(client(server, fresh("k")))
        server.process.terminate()
        deadline = time.monotonic() + 10
        while "drain:" not in server.output():
            assert time.monotonic() < deadline, server.output()
            await asyncio.sleep(0.02)
        assert await answers() == [200, 401]
        keys.write_text(f"{NEW}\n")
        await hang_up(server, lambda log: log.count("configuration: read anew") == drained)
        assert await answers() == [401, 200]
        assert server.process.returncode is None
        server.process.terminate()
        assert await asyncio.wait_for(server.process.wait(), 8) == 0


async def test_a_worker_that_comes_later_has_the_keys_of_the_last_rotation(servers: Servers, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"{OLD}\n")
    server = await servers.start("workers", servers.cluster_env() | {"EKBO_API_KEYS_FILE": str(keys)})
    keys.write_text(f"{NEW}\n")
    await hang_up(server, lambda log: log.count("configuration: read anew") == 3)
    before = len(server.output())
    worker = re.search(r"worker 1 \(pid (\d+)\) listening", server.output())
    assert worker
    os.kill(int(worker[1]), signal.SIGKILL)
    deadline = time.monotonic() + 20
    while "worker 1" not in (log := server.output()[before:]) or "listening" not in log:
        assert time.monotonic() < deadline, log
        await asyncio.sleep(0.02)
    found = set()
    for _ in range(20):  # by new connections, which both workers get
        for name, value in (("old", OLD), ("new", NEW)):
            answer = await request(server, "GET", "/sessions", [("Authorization", f"Bearer {value}")])
            found.add((name, answer.status))
    assert found == {("old", 401), ("new", 200)}
    assert await server.stop() == 0
