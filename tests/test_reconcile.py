"""GET and POST /sessions: who is connected, as a backend asks it, on every server."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import AsyncExitStack, closing
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest

from tests.backend import Backend
from tests.clients import Headers, Response, client, close, request
from tests.conftest import kind as kind
from tests.operators import Registry, registered
from tests.servers import Server, Servers, free_port
from tests.vectors_api import SESSION, not_found

pytestmark = pytest.mark.usefixtures("clean_logs")
KEY = "first-key-0123456"

Fresh = Callable[[str], str]


async def ask(server: Server, *keys: str) -> Response:
    return await request(server.api, "POST", "/sessions", (), json.dumps(keys).encode())


async def test_alive_and_gone(kind: str, servers: Servers, fresh: Callable[[str], str]) -> None:
    """Each key once, in the order asked; where, and since when."""
    server = await servers.get(kind)
    one, two, odd = fresh("r"), fresh("r"), fresh("r") + '/%2F?#"<\\'
    async with client(server, one), client(server, two), client(server, quote(odd, safe="")):
        await registered(server, one, two, odd)
        response = await ask(server, two, "nobody", odd, one, two)
        assert (response.status, response.one("Content-Type")) == (200, "application/json; charset=utf-8")
        answer = response.json()
        assert list(answer) == ["alive", "gone", "result"]
        assert answer["gone"] == ["nobody"]
        assert [entry["session"] for entry in answer["alive"]] == [two, odd, one]
        for entry in answer["alive"]:
            assert list(entry) == ["session", "connection", "node", "endpoint", "since"]
            assert datetime.now(UTC) - datetime.fromisoformat(entry["since"]) < timedelta(seconds=30)
        by_header = await request(
            server.api, "POST", "/sessions", [(SESSION, f"{two},nobody,{odd}"), (SESSION, one)], b""
        )
        assert by_header.json() == answer
        (entry,) = [entry for entry in answer["alive"] if entry["session"] == odd]
        single = await request(server.api, "GET", f"/sessions/{quote(odd, safe='')}")
        assert (single.status, single.json()) == (200, {"sessions": [entry], "result": "OK"})
        assert (await close(server, one)).status == 200
        for _ in range(100):
            gone = await request(server.api, "GET", f"/sessions/{one}")
            if gone.status == 404:
                break
            await asyncio.sleep(0.05)
        assert (gone.status, gone.body) == (404, not_found(one, result="NG"))
        assert (await ask(server, one)).json() == {"alive": [], "gone": [one], "result": "OK"}
    assert (await ask(server)).json() == {"alive": [], "gone": [], "result": "OK"}


async def test_pages(kind: str, servers: Servers, fresh: Callable[[str], str]) -> None:
    """Whoever is connected all the while is on exactly one page, whoever else comes and goes."""
    server = await servers.start(kind)
    async with AsyncExitStack() as stack:
        keys = [fresh("p") for _ in range(7)]
        for key in keys:
            await stack.enter_async_context(client(server, key))
        await registered(server, *keys)
        seen: list[str] = []
        cursor = ""
        sizes = []
        while cursor is not None:
            answer = (await request(server.api, "GET", f"/sessions?limit=3&cursor={cursor}")).json()
            assert list(answer) == ["sessions", "cursor", "result"]
            seen += [entry["session"] for entry in answer["sessions"]]
            sizes.append(len(answer["sessions"]))
            cursor = answer["cursor"]
            async with client(server, fresh("q")):
                pass
        assert sorted(key for key in seen if key in keys) == keys
        assert len(seen) == len(set(seen))
        assert all(size <= 3 for size in sizes)
        assert len((await request(server.api, "GET", "/sessions")).json()["sessions"]) >= 7
    await server.stop()


async def test_ten_thousand_keys(servers: Servers) -> None:
    """In one request, most of them registered, in little time; one more is refused."""
    server = await servers.start("uvicorn")
    registry = await Registry.at(server.env["EKBO_DATABASE_URL"])
    keys = [f"{number:05}-{'k' * 250}" for number in range(10_000)]
    rows = await registry.sessions(keys[:9_000], await registry.node("elsewhere"))
    began = asyncio.get_running_loop().time()
    answer = (await ask(server, *keys)).json()
    assert asyncio.get_running_loop().time() - began < 3
    assert [entry["session"] for entry in answer["alive"]] == keys[:9_000]
    assert answer["gone"] == keys[9_000:]
    assert answer["alive"][0] == {
        "session": keys[0],
        "connection": str(rows[0].connection),
        "node": "elsewhere",
        "endpoint": "web1:9180",
        "since": rows[0].connected_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    refused = await ask(server, *keys, "more")
    assert (refused.status, refused.json()["errors"]) == (
        400,
        [{"error": "too many session keys: expected at most 10000, found 10001"}],
    )
    everyone = (await request(server, "GET", "/sessions?limit=10000")).json()
    assert (len(everyone["sessions"]), everyone["cursor"]) == (9_000, None)
    await server.stop()


REFUSED: list[tuple[str, str, Headers, bytes, int, str]] = [
    ("POST", "", [], b"", 400, "session header is missing"),
    ("POST", "", [], b"bob", 400, 'expected a JSON list of session keys, like ["bob","eve"]; Expecting value'),
    ("POST", "", [], b"\xff", 400, "expected a JSON list"),
    ("POST", "", [], b"[" * 100_000, 400, "expected a JSON list"),
    ("POST", "", [], b'{"bob": 1}', 400, "found other JSON"),
    ("POST", "", [], b'["bob", 7]', 400, "found other JSON"),
    ("POST", "", [], b'["bob", "a,b"]', 400, "session key 2 is malformed"),
    ("POST", "", [], b'["\\ud800"]', 400, "session key 1 is malformed"),
    ("POST", "", [], b'["' + b"x" * (4 << 20), 413, "at most 4194304 bytes"),
    ("PUT", "", [], b"[]", 405, "required GET or POST method"),
    ("POST", "/bob", [], b"", 405, "required GET method"),
    ("GET", "?limit=0", [], b"", 400, "limit: expected a whole number from 1 to 10000, found '0'"),
    ("GET", "?limit=10001", [], b"", 400, "limit: expected"),
    ("GET", "?limit=many", [], b"", 400, "limit: expected"),
    ("GET", "?cursor=x", [], b"", 400, "cursor: expected one that an answer named, found 'x'"),
    ("GET", "?cursor=" + "A" * 23, [], b"", 400, "cursor: expected"),
    ("GET", "?cursor=%ff", [], b"", 400, "cursor: expected"),
    ("GET", "/", [], b"", 400, "session key 1 is malformed"),
    ("GET", "/a%2Cb", [], b"", 400, "session key 1 is malformed"),
    ("GET", "/%0A", [], b"", 400, "session key 1 is malformed"),
    ("GET", "/" + "x" * 257, [], b"", 400, "session key 1 is malformed"),
    ("GET", "/bob", [("X-Forwarded-For", "192.0.2.1")], b"", 403, "not allowed"),
    ("GET", "", [("X-Forwarded-For", "192.0.2.1")], b"", 403, "not allowed"),
    ("POST", "", [("X-Forwarded-For", "192.0.2.1")], b"[]", 403, "not allowed"),
]


@pytest.mark.parametrize(("method", "target", "headers", "body", "status", "text"), REFUSED)
async def test_refusals(
    kind: str, servers: Servers, method: str, target: str, headers: Headers, body: bytes, status: int, text: str
) -> None:
    """In the shape of the API's other refusals."""
    server = await servers.get(kind)
    response = await request(server, method, f"/sessions{target}", headers, body)
    assert (response.status, response.one("Content-Type")) == (status, "application/json; charset=utf-8")
    (error,) = response.json()["errors"]
    assert response.json()["result"] == "NG"
    assert text in error["error"]
    if status == 405:
        assert response.one("Allow") == text.removeprefix("required ").removesuffix(" method")


async def test_keys_of_the_api(kind: str, servers: Servers) -> None:
    server = await servers.get(kind, {"EKBO_API_KEYS": KEY, "EKBO_SESSIONS_PATH": "/api/who/"})
    for target in ("/api/who/", "/api/who/bob"):
        assert (await request(server, "GET", target)).status == 401
    for _ in range(100):
        response = await request(server, "GET", "/api/who/nobody", [("Authorization", f"Bearer {KEY}")])
        if response.status != 503:
            break
        await asyncio.sleep(0.05)
    assert response.status == 404
    assert response.json()["errors"][0]["session"] == "nobody"


async def test_the_registry_is_off(kind: str, servers: Servers) -> None:
    server = await servers.get(kind, {"EKBO_REGISTRY": "off"})
    for method, target in (("GET", "/sessions"), ("POST", "/sessions"), ("GET", "/sessions/bob")):
        response = await request(server, method, target, (), b"[]" if method == "POST" else None)
        assert (response.status, response.json()["result"]) == (503, "NG")
        assert "the registry of sessions is off (EKBO_REGISTRY)" in response.body.decode()


async def test_a_database_that_is_not_there(servers: Servers) -> None:
    url = f"postgresql://kb:hunter2@127.0.0.1:{free_port()}/kb"
    server = await servers.start("uvicorn", {"EKBO_DATABASE_URL": url})
    response = await request(server, "GET", "/sessions")
    assert (response.status, response.json()["errors"]) == (
        503,
        [{"error": "the database can't be asked (OperationalError)"}],
    )
    assert "hunter2" not in server.output()
    await server.stop()


async def test_ends_that_are_not_written_yet(kind: str, servers: Servers, backend: Backend, fresh: Fresh) -> None:
    """While the database can be read but not written, who has gone has gone: for the answer, not for the row."""
    server = await servers.start(kind, {"EKBO_NODE_TIMEOUT": "2s"})  # so that both nodes soon see that it is locked
    file = server.env["EKBO_DATABASE_URL"].removeprefix("sqlite:///")
    left, closed, stays = keys = fresh("left"), fresh("closed"), fresh("stays")
    try:
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            async with client(server, left) as leaving, client(server, closed), client(server, stays):
                await registered(server, *keys)
                # As if they had been there for a while.
                other.execute("UPDATE proxy_session SET connected_at = '2026-01-01 00:00:00'")
                other.execute("BEGIN IMMEDIATE")
                await leaving.close()
                await backend.wait("/close", left, timeout=10)
                assert (await close(server, closed)).status == 200
                while b"degraded" not in (await request(server.api, "GET", "/ready")).body:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                answer = (await ask(server, *keys)).json()
                assert [entry["session"] for entry in answer["alive"]] == [stays]
                assert answer["gone"] == [left, closed]
                for key, status in zip(keys, (404, 404, 200), strict=True):
                    assert (await request(server.api, "GET", f"/sessions/{key}")).status == status
                page = (await request(server.api, "GET", "/sessions")).json()
                assert [entry["session"] for entry in page["sessions"]] == [stays]
                assert other.execute("SELECT count(*) FROM proxy_session WHERE ended_at IS NULL").fetchone() == (3,)
                other.execute("ROLLBACK")
    finally:
        await server.stop()


async def test_a_session_that_the_registry_does_not_know(servers: Servers, key: str) -> None:
    """It is connected, so it is never called gone."""
    server = await servers.start("uvicorn")
    registry = await Registry.at(server.env["EKBO_DATABASE_URL"])
    async with client(server, key):
        await registered(server, key)
        await registry.run(lambda: registry.objects().filter(key=key).delete())
        unknown = {"session": key, "connection": None, "node": None, "endpoint": None, "since": None}
        assert (await ask(server, key)).json() == {"alive": [unknown], "gone": [], "result": "OK"}
        assert (await request(server, "GET", f"/sessions/{key}")).json()["sessions"] == [unknown]
    await server.stop()


async def test_a_process_that_redis_does_not_know(servers: Servers, key: str) -> None:
    """It may be cut off from Redis alone, with its clients: as long as the registry works, that is believed."""
    server = await servers.get("cluster")
    registry = await Registry.at(server.env["EKBO_DATABASE_URL"])
    await registry.sessions([key], await registry.node("elsewhere"))
    assert [entry["session"] for entry in (await ask(server, key)).json()["alive"]] == [key]
    assert (await request(server.api, "GET", f"/sessions/{key}")).status == 200
