"""The log, as it leaves real servers: an event per line in both forms, ids, levels, and what must never be in it."""

from __future__ import annotations

import json
import logging
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy import logs
from proxy.ends import End
from proxy.exceptions import ConnectRefused
from tests.backend import Answer, Backend, welcome
from tests.clients import Http, RawWebSocket, client, close, receive, request
from tests.servers import ALONE, Server, Servers

DOCS = (Path(__file__).parent.parent / "docs/logs.md").read_text()
EVENTS = {
    event: (level, logger, re.findall(r"`(\w+)`", fields))
    for event, level, logger, fields in re.findall(r"^\| `(\w+)` \| (\w+) \| (\S+) \| ([^|]*) \|", DOCS, re.M)
}
MADE = re.compile(r"[0-9a-f]{16}")
COMMON = ["time", "level", "logger", "event"]

pytestmark = pytest.mark.usefixtures("clean_logs")

Line = dict[str, Any]


def lines(server: Server) -> list[Line]:
    """Its whole log, each line of which is an object."""
    return [json.loads(line) for line in server.output().splitlines()]


def events(server: Server, name: str, **fields: object) -> list[Line]:
    """The lines of an event with these fields; each is as docs/logs.md says."""
    found = [line for line in lines(server) if line.get("event") == name]
    level, logger, names = EVENTS[name]
    for line in found:
        assert (line["level"], f"`{line['logger']}`") == (level, logger)
        assert list(line) == [*COMMON, *names, "message"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    return [line for line in found if fields.items() <= line.items()]


@pytest.mark.parametrize("kind", ALONE)
async def test_a_line_for_each_event(
    servers: Servers, backend: Backend, fresh: Callable[[str], str], kind: str
) -> None:
    server = await servers.start(kind, {"EKBO_LOG_FORMAT": "json"})
    good, bad, rude = fresh("good"), fresh("bad"), fresh("rude")
    backend.on("/connect", bad, Answer())
    backend.on("/connect", rude, Answer(status=401))
    backend.on("/receive", good, Answer(status=500))
    secret = [("Cookie", "c=hunter2"), ("Authorization", "Bearer hunter2hunter2hunter2")]
    async with RawWebSocket.open(server) as raw:
        await raw.handshake(f"/connect?key={bad}&token=hunter2", [*secret, ("X-Request-Id", "bad-1")])
    async with RawWebSocket.open(server) as raw:
        await raw.handshake(f"/connect?key={rude}&token=hunter2", secret)
    async with RawWebSocket.connected(server, good) as raw:
        await raw.write(b"\x81\x85\0\0\0\0hello")
        await backend.wait("/receive", good)
        to = [("X-Kuiperbelt-Session", good)]
        await request(server, "POST", "/send?hunter2", [*to, ("X-Request-Id", "push_2")], b"hunter2")
        await request(server, "GET", "/stats?token=hunter2", secret)
        await close(server, good)
        await raw.closed()
    assert await server.stop() == 0

    (accepted,) = backend.seen("/connect", good)
    connection = accepted.one("X-Kuiperbelt-Connection")
    (opened,) = events(server, "connect", connection=connection, address="127.0.0.1")
    assert MADE.fullmatch(opened["request"])
    (closed,) = events(server, "close", connection=connection, request=opened["request"], code=1000)
    assert closed["reason"] == "by the backend"
    assert 0 < closed["seconds"] < 30
    (refused,) = events(server, "refuse", status=502, cause="backend_failed", request="bad-1")
    (failed,) = events(server, "callback_failed", kind="connect", connection=refused["connection"])
    assert failed["error"] == "connect: expected one session key in X-Kuiperbelt-Session, found 0 of them"
    assert len(events(server, "callback_failed", kind="receive", connection=connection)) == 1
    (refused,) = events(server, "refuse", status=401, cause="backend_refused", why="the backend answered 401")
    assert MADE.fullmatch(refused["request"])
    (pushed,) = events(server, "request", method="POST", path="/send", status=200, request="push_2")
    assert 0 < pushed["seconds"] < 30
    assert len(events(server, "request", method="GET", path="/stats", status=200)) == 1
    assert not re.search(f"hunter2|hello|{good}|{bad}|{rude}", server.output())


async def test_request_ids_of_pushes_whose_heads_repeat(servers: Servers, key: str) -> None:
    """The lane doesn't parse these, and a request in between has another id."""
    server = await servers.start("uvicorn", {"EKBO_LOG_FORMAT": "json"})
    headers = [("X-Kuiperbelt-Session", key), ("X-Request-Id", "same")]
    async with client(server, key) as connection, Http.open(server) as http:
        for _ in range(4):
            assert (await http.request("POST", "/send", headers, b"x")).status == 200
        assert (await http.request("GET", "/ping", [("X-Request-Id", "other")])).status == 200
        assert (await http.request("POST", "/send", headers, b"x")).status == 200
        assert [await receive(connection) for _ in range(5)] == ["x"] * 5
    await server.stop()
    sent = [line["request"] for line in events(server, "request", path="/send")]
    assert sent == ["same"] * 5
    assert [line["request"] for line in events(server, "request", path="/ping")][-1] == "other"


async def test_for_people(servers: Servers, backend: Backend, key: str) -> None:
    backend.on("/receive", key, Answer(status=503))
    server = await servers.start("uvicorn")
    async with client(server, key) as connection:
        await connection.send("x")
        await backend.wait("/receive", key)
    await server.stop()
    log, uuid = server.output(), backend.seen("/connect", key)[0].one("X-Kuiperbelt-Connection")
    request_id = r"request [0-9a-f]{16}\n"
    assert re.search(rf"INFO proxy.access connection {uuid}: open, from 127.0.0.1, {request_id}", log)
    assert re.search(rf"INFO proxy.access connection {uuid}: closed, code 1000, client, after \d\.\d s\n", log)
    assert f"WARNING proxy.callbacks connection {uuid}: callback failed: receive: expected status 200, found 503" in log
    assert re.search(rf"INFO proxy.access GET /ping 200 0\.\d{{6}} {request_id}", log)


async def test_the_switch_of_kuiperbelt(servers: Servers, backend: Backend, key: str) -> None:
    """It is for the access log only."""
    backend.on("/connect", key, lambda _: Answer(headers=welcome(key).headers))
    backend.on("/receive", key, Answer(status=503))
    server = await servers.start("uvicorn", {"EKBO_SUPPRESS_ACCESS_LOG": "true", "EKBO_LOG_FORMAT": "json"})
    async with client(server, key) as connection:
        await connection.send("x")
        await backend.wait("/receive", key)
    await server.stop()
    assert {line["logger"] for line in lines(server)} == {"proxy.server", "proxy.callbacks"}


@pytest.mark.parametrize("kind", ["uvicorn", "workers"])
async def test_the_level_changes_at_sighup(servers: Servers, tmp_path: Path, kind: str) -> None:
    config = tmp_path / "config.yml"
    config.write_text("log: {level: warning, format: json}\n")
    env = {"EKBO_CONFIG": str(config)} | (servers.cluster_env() if kind == "workers" else {})
    server = await servers.start(kind, env)

    def asked() -> int:
        return len([line for line in lines(server) if line.get("path") == "/ping"])

    async def settles(level: str, logged: bool) -> None:
        """All processes have read the file: enough requests in a row are logged, or none."""
        config.write_text(f"log: {{level: {level}, format: json}}\n")
        server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while True:
            before = asked()
            for _ in range(10):  # by new connections, which all workers get
                await request(server, "GET", "/ping")
            if asked() - before == (10 if logged else 0):
                return
            assert time.monotonic() < deadline

    await request(server, "GET", "/ping")
    assert lines(server) == []
    await settles("info", True)
    await settles("error", False)
    await settles("debug", True)
    await server.stop()


def test_what_nobody_reads_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> str:
        raise AssertionError("made")

    monkeypatch.setattr(logs, "request_id", never)
    monkeypatch.setattr(logs.access_logger, "level", logging.WARNING)
    logging.getLogger().manager._clear_cache()  # type: ignore[attr-defined]
    try:
        scope: dict[str, Any] = {"headers": [], "client": ("192.0.2.1", 1)}
        logs.log_request("GET", "/ping", 200, 0.1, [])
        logs.log_refusal(scope, ConnectRefused(401), "")
        log = logs.ConnectionLog(scope, "0")
        log.opened()
        log.closed(End(1000, "client"))
    finally:
        logging.getLogger().manager._clear_cache()  # type: ignore[attr-defined]


@pytest.mark.parametrize("given", [[b"a b"], [b""], [b"x" * 65], [b"one", b"two"], [b"a\r\nb"], ["é".encode()], []])
def test_request_ids_that_are_not_taken(given: list[bytes]) -> None:
    headers = [(b"x-request-id", value) for value in given]
    assert MADE.fullmatch(logs.request_id(headers))
    assert logs.request_id(headers) != logs.request_id(headers)


def test_request_ids_that_are_taken() -> None:
    for name in ("a", "0b8c-1.2_X", "y" * 64):
        assert logs.request_id([(b"x-request-id", name.encode())]) == name


async def test_hostile_ids_and_addresses_stay_on_their_line(servers: Servers, fresh: Callable[[str], str]) -> None:
    """What a trusted proxy passes on is still a client's word."""
    env = {"EKBO_TRUSTED_PROXIES": "127.0.0.1/32", "EKBO_LOG_FORMAT": "json"}
    server = await servers.start("uvicorn", env)
    for value in ('","event":"x', "\u2028new".encode().decode("latin-1"), "a" * 5000):
        async with RawWebSocket.open(server) as raw:
            await raw.handshake(f"/connect?key={fresh('k')}", [("X-Forwarded-For", value), ("X-Request-Id", value)])
    await server.stop()
    found = events(server, "connect") + events(server, "refuse")
    assert len(found) == 3
    assert all(len(line["address"]) <= logs.MAX_ADDRESS and MADE.fullmatch(line["request"]) for line in found)
    assert server.output().isascii()
