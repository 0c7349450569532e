"""`manage.py doctor` against real nodes, Redis and a backend: what it says when all is well, and of what isn't."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from tests.backend import Answer, Backend
from tests.clients import client, receive, send
from tests.operators import Registry, manage
from tests.redis_servers import RedisServer
from tests.servers import ROOT, Server, Servers, free_port
from tests.servers import environment as server_environment

AREAS = {"configuration", "limits", "database", "redis", "ports", "nodes", "callbacks", "self-test"}
SMALL = ("--client-output-buffer-limit", "pubsub 1mb 1mb 60")


@pytest.fixture(scope="module")
async def server(servers: Servers) -> Server:
    """Two nodes on one Redis."""
    return await servers.get("cluster")


async def doctor(env: dict[str, str], *arguments: str) -> tuple[int | None, list[dict[str, Any]]]:
    """Its exit status, and its findings."""
    done = await manage("doctor", "--json", *arguments, env=env)
    return done.status, list(map(json.loads, done.lines))


def of(findings: list[dict[str, Any]], area: str, name: str = "") -> dict[str, Any]:
    """The only finding of an area whose name begins like that."""
    (found,) = [each for each in findings if each["area"] == area and each["name"].startswith(name)]
    return found


async def test_all_is_well(server: Server, backend: Backend, key: str) -> None:
    """Every check has something to look at; the client's whole life goes through both nodes, and leaves nothing."""
    status, findings = await doctor(server.env, "--query", f"key={key}", "--header", "Cookie: a=b")
    assert [each for each in findings if each["state"] == "failed"] == []
    assert status == 0
    test = of(findings, "self-test")
    assert test["state"] == "ok"
    assert test["found"].startswith("connected, pushed to through 2 node(s), closed, in ")
    assert of(findings, "database", "tables")["found"] == "up to date"
    assert of(findings, "database", "journal")["found"] == "WAL"
    assert of(findings, "nodes", "nodes")["found"].startswith("2 process(es) at 2 address(es)")
    assert of(findings, "ports")["found"] == f"the proxy answers, 127.0.0.1 port {server.port}"
    assert of(findings, "callbacks", "connect")["found"].endswith(f"lets the client in as {key}")
    assert {each["area"] for each in findings} == AREAS
    # One life as `checkbackend` makes it, and the self-test's own: the backend hears of both ends.
    told = await backend.wait("/close", key, 2)
    asked = {request.one("X-Kuiperbelt-Connection") for request in backend.seen("/connect", key)}
    assert {event.one("X-Kuiperbelt-Connection") for event in told} == asked
    assert {event.one("X-Kuiperbelt-Close-Reason") for event in told} == {"client", "operator"}
    assert {request.one("Cookie") for request in backend.seen("/connect", key)} == {"a=b"}
    assert (await send(server, key)).json()["errors"][0]["error"] == "kuiperbelt: session is not found"


async def test_in_words(server: Server, key: str) -> None:
    done = await manage("doctor", "--query", f"key={key}", env=server.env)
    assert done.status == 0
    assert any(line.startswith("self-test      ok       self-test: connected") for line in done.lines)
    assert done.lines[-1].endswith(", 0 failed, 0 skipped"), done.output  # warnings are this machine's


async def test_a_client_that_is_connected_stays(server: Server, key: str) -> None:
    async with client(server, key) as connection:
        status, findings = await doctor(server.env, "--query", f"key={key}")
        test = of(findings, "self-test")
        assert (status, test["state"]) == (0, "skipped")
        assert test["found"] == f"{key} is connected, and the test would replace that connection"
        await send(server, key, b"still here")
        assert await receive(connection) == "still here"


async def test_a_backend_that_lets_nobody_in(server: Server, backend: Backend) -> None:
    """It works, but the self-test needs somebody to be."""
    backend.on("/doctor/connect", "", Answer(status=401))
    callback = f"http://127.0.0.1:{backend.port}/doctor/connect"
    status, findings = await doctor(server.env | {"EKBO_CONNECT_CALLBACK_URL": callback})
    assert status == 0
    assert "answers, but status 401" in of(findings, "callbacks", "connect")["found"]
    test = of(findings, "self-test")
    assert test["state"] == "skipped"
    assert "--query and --header" in test["advice"]


async def test_a_backend_that_hangs(server: Server, backend: Backend) -> None:
    """One time-out is waited for, not four."""
    backend.on("/hung/connect", "", Answer(delay=20))
    callback = {"EKBO_CONNECT_CALLBACK_URL": f"http://127.0.0.1:{backend.port}/hung/connect"}
    status, findings = await doctor(server.env | callback | {"EKBO_CALLBACK_TIMEOUT": "500ms"})
    assert status == 1
    assert [each["name"] for each in findings if each["area"] == "callbacks"] == ["connect", "others"]
    assert "no whole answer within 0.5 s" in of(findings, "callbacks", "connect")["found"]


@pytest.mark.parametrize("trouble", ["locked", "without tables", "not there"])
async def test_a_database_that_cannot_be_asked(server: Server, key: str, tmp_path: Path, trouble: str) -> None:
    """Everything else is looked at all the same, but the self-test, which may replace somebody."""
    file = tmp_path / "sick.sqlite3"
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        if trouble != "not there":
            other = stack.enter_context(contextlib.closing(sqlite3.connect(file, isolation_level=None)))
            other.execute("CREATE TABLE something (other)")
            other.execute("BEGIN IMMEDIATE" if trouble == "locked" else "SELECT 1")
        env = server.env | {"EKBO_DATABASE_URL": f"sqlite:///{file}"}
        status, findings = await doctor(env, "--query", f"key={key}")
    assert time.monotonic() - began < 10
    failed = {each["name"]: each for each in findings if each["state"] == "failed"}
    assert status == bool(failed)
    if trouble == "locked":
        assert failed["database"]["found"] == "database is locked"
        assert failed["database"]["advice"].startswith("Something holds a lock")
    assert list(failed) == {"locked": ["database"], "without tables": ["tables"], "not there": []}[trouble]
    assert {each["area"] for each in findings} == AREAS
    test = of(findings, "self-test")
    assert (test["state"], "whether" in test["found"]) == ("skipped", True)
    assert of(findings, "nodes", "nodes")["found"].startswith("the database doesn't say")
    assert file.exists() == (trouble != "not there")


async def test_another_node_that_is_not_there(server: Server, key: str) -> None:
    """That is said once; the self-test goes through those that answer."""
    registry = await Registry.at(server.env["EKBO_DATABASE_URL"])
    gone = await registry.node("web9", f"127.0.0.1:{free_port()}")
    status, findings = await doctor(server.env, "--query", f"key={key}")
    await registry.run(lambda: gone.delete(using=registry.alias))
    assert status == 1
    assert [each["name"] for each in findings if each["state"] == "failed"] == [f"node web9 at {gone.endpoint}"]
    assert of(findings, "self-test")["found"].startswith("connected, pushed to through 2 node(s), closed")


async def test_another_key(servers: Servers, key: str) -> None:
    """The command has other EKBO_API_KEYS than the node."""
    guarded = await servers.start("uvicorn", {"EKBO_API_KEYS": "fedcba9876543210"})
    status, findings = await doctor(guarded.env | {"EKBO_API_KEYS": "0123456789abcdef"}, "--query", f"key={key}")
    assert status == 1
    test = of(findings, "self-test", "push through")
    assert "refused with 401" in test["found"]
    await guarded.stop()


async def test_nothing_runs(backend: Backend, tmp_path: Path) -> None:
    """It says so, makes no database, and that alone is no failure."""
    env = {"EKBO_CONNECT_CALLBACK_URL": f"http://127.0.0.1:{backend.port}/doctor/connect"}
    env |= {"EKBO_DATABASE_URL": f"sqlite:///{tmp_path}/none.sqlite3", "EKBO_PORT": str(free_port())}
    backend.on("/doctor/connect", "", Answer(status=401))
    status, findings = await doctor(env)
    assert status == 0
    assert of(findings, "ports")["found"].startswith("nothing runs there, and it is free")
    assert of(findings, "self-test")["found"] == "the proxy doesn't run here"
    assert of(findings, "database")["found"].endswith("isn't there yet; `manage.py runproxy` makes it")
    assert not (tmp_path / "none.sqlite3").exists()


async def test_all_is_wrong(tmp_path: Path) -> None:
    """Everything at once is one report, with what to do about each."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        env = {
            "EKBO_CONNECT_CALLBACK_URL": f"http://127.0.0.1:{free_port()}/connect",
            "EKBO_DATABASE_URL": f"sqlite:///{tmp_path}/no/such/place.sqlite3",
            "EKBO_REDIS_URL": f"redis://:hidden@127.0.0.1:{free_port()}/0",
            "EKBO_HOST": "127.0.0.1",
            "EKBO_PORT": str(other.getsockname()[1]),
            "EKBO_CALLBACK_TIMEOUT": "nonsense",
            "EKBO_POTR": "1",
        }
        done = await manage("doctor", env=env)
    assert done.status == 1
    for expected in (
        "configuration  FAILED   EKBO_CALLBACK_TIMEOUT: expected a duration",
        "configuration  WARNING  EKBO_POTR",
        "database       FAILED   database: expected a directory for",
        "redis          FAILED   Redis 127.0.0.1",
        "found no answer within 2 s",
        "callbacks      FAILED   connect",
        "Connection refused",
        "the proxy doesn't run here",
    ):
        assert expected in done.output, done.output
    assert "hidden" not in done.output


async def test_warnings_at_the_start(servers: Servers, backend: Backend, tmp_path: Path) -> None:
    """What is too small is said before anybody is turned away; the proxy serves all the same."""
    async with RedisServer.running("", *SMALL) as redis:
        port = free_port()
        env = servers.database_env(f"port{port}") | {"EKBO_PORT": str(port), "EKBO_REDIS_URL": redis.url}
        env = server_environment(backend.port, env | {"EKBO_MAX_CONNECTIONS": "1000"})
        log = tmp_path / "log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                "sh", "-c", "ulimit -n 512; exec .venv/bin/python manage.py runproxy",
                cwd=ROOT, env=env, stdout=output, stderr=output,
            )  # fmt: skip
        try:
            await Server("uvicorn", env, port, log, process).ready()
            status, findings = await doctor(env)
        finally:
            process.terminate()
            await process.wait()
    text = log.read_text()
    assert "open files: expected 1,200 or more, for 1,000 clients (max_connections)" in text
    assert "LimitNOFILE" in text
    assert "(client-output-buffer-limit pubsub): expected 32 MB hard and 8 MB soft or more, found 1 MB hard" in text
    assert "redis-cli CONFIG SET client-output-buffer-limit 'pubsub 33554432 8388608 60'" in text
    # From a shell with another limit, the running process's own is seen.
    assert of(findings, "limits", "open files of process")["found"] == "512"
    assert of(findings, "redis", f"Redis 127.0.0.1:{redis.port}, output buffer")["state"] == "warning"
    assert status == 0
