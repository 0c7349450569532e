"""GET /sessions/KEY?watch on real servers: what is told of a session, to whom, and what it costs the session."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta

import pytest

from tests.at_once import at_once
from tests.backend import Answer, Backend, welcome
from tests.clients import client, close, ending, request, send
from tests.operators import manage
from tests.servers import KINDS, Servers
from tests.vectors import each_of
from tests.watchers import Watch, bare

pytestmark = pytest.mark.usefixtures("clean_logs")

kind = each_of(KINDS)
CONTENTS = {"EKBO_WATCH_CONTENTS": "true"}
WITH_CONTENTS = "watch&contents"
KEY = "an-api-key-of-watchers"


async def frames(watch: Watch, count: int) -> list[tuple[str, str, int]]:
    """What went out and came in."""
    found: list[tuple[str, str, int]] = []
    while len(found) < count:
        report = await watch.next("sent", "received")
        found.append((report["what"], report["type"], report["size"]))
    return found


@at_once(kind=KINDS)
async def test_a_whole_life(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """From another node, before it begins and after it has ended; without contents, though they might be shown."""
    server = await servers.get(kind, CONTENTS)
    backend.on("/connect", key, welcome(key, b"hello"))
    async with Watch.open(server.api, key) as watch:
        assert bare(await watch.next()) == {"what": "absent"}
        async with client(server, key, target="/connect?token=secret") as connection:
            began = await watch.next()
            assert bare(began) == {
                "what": "session", "key": key, "node": socket.gethostname(), "since": began["since"],
                "remote": "127.0.0.1", "path": "/connect",
            }  # fmt: skip
            for moment in (began["since"], began["at"]):
                assert datetime.now(UTC) - datetime.fromisoformat(moment) < timedelta(seconds=10)
            assert (await backend.wait("/connect", key))[0].one("X-Kuiperbelt-Connection") == began["connection"]
            await send(server, key, b"push")
            await send(server, key, b"\xff\x00", ("Content-Type", "application/octet-stream"))
            await connection.send("snow ☃")
            await connection.send(b"\x00")
            assert await frames(watch, 4) == [
                ("sent", "text", 4), ("sent", "binary", 2), ("received", "text", 8), ("received", "binary", 1),
            ]  # fmt: skip
            while sum(report["what"] == "callback" for report in watch.seen) < 2:
                await watch.next("callback")
        assert bare(await watch.next("closed")) == {"what": "closed", "code": 1000, "reason": "client"}
        told = [report for report in watch.seen if report["what"] == "callback"]
        assert [bare(report) for report in told] == [
            {"what": "callback", "kind": "receive", "status": 200, "error": None, "asked": asked, "answered": 0}
            for asked in (8, 1)
        ]
        after = [bare(await watch.next()) for _ in range(2)]  # in one order or the other, if the backend is slow
        assert {"what": "absent"} in after
        assert {
            "what": "callback", "kind": "close", "status": 200, "error": None, "asked": 0, "answered": 0,
        } in after  # fmt: skip
        numbered = [report for report in watch.seen if "n" in report]
        assert [report["n"] for report in numbered] == list(range(len(numbered)))
        assert {report["connection"] for report in numbered} == {began["connection"]}
        assert all(0 < report["ms"] < 10_000 for report in watch.seen if "ms" in report)
        assert "secret" not in str(watch.seen)
        async with client(server, key):  # the same key again
            again = await watch.next("session", "missed")
            assert (again["what"], again["n"]) == ("session", 0)
            assert again["connection"] != began["connection"]


async def test_contents(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """If they may be shown and are asked for; long ones are cut. Another watcher hasn't asked."""
    server = await servers.get(kind, CONTENTS)
    backend.on("/receive", key, Answer(body="ünderstood".encode()))
    async with (
        client(server, key) as connection,
        Watch.open(server.api, key, WITH_CONTENTS) as watch,
        Watch.open(server, key) as other,
    ):
        await watch.next("session")
        await other.next("session")
        for body, content_type in [(b"hi", "text/plain"), (b"\xff\xfe", "application/octet-stream")]:
            await send(server, key, body, ("Content-Type", content_type))
        await connection.send("ü" * 5000)
        assert [bare(await watch.next()) for _ in range(4)] == [
            {"what": "sent", "type": "text", "size": 2, "content": "hi"},
            {"what": "sent", "type": "binary", "size": 2, "content": "//4=", "encoding": "base64"},
            {"what": "received", "type": "text", "size": 10_000, "content": "ü" * 4096, "cut": True},
            {
                "what": "callback", "kind": "receive", "status": 200, "error": None, "asked": 10_000, "answered": 11,
                "content": "ünderstood",
            },
        ]  # fmt: skip
        await other.next("callback")
        assert all("content" not in report for report in other.seen)


async def test_how_the_backend_and_the_proxy_end_it(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    server = await servers.get(kind, CONTENTS)
    backend.on("/receive", key, Answer(status=500, body=b"oh no"))
    async with client(server, key) as connection, Watch.open(server.api, key, WITH_CONTENTS) as watch:
        await watch.next("session")
        await connection.send("x")
        failed = bare(await watch.next("callback"))
        assert (failed["status"], failed["error"], failed["content"]) == (500, None, "oh no")
        assert (await close(server, key, b"bye", ("X-Kuiperbelt-Close-Code", "4000"))).status == 200
        assert (await ending(connection)).code == 4000
        last = bare(await watch.next("sent"))
        assert last == {"what": "sent", "type": "text", "size": 3, "content": "bye"}
        assert bare(await watch.next("closed"))["code"] == 4000


@pytest.mark.parametrize("kind", ["uvicorn", "cluster"])
async def test_a_callback_without_an_answer(servers: Servers, backend: Backend, kind: str, key: str) -> None:
    server = await servers.get(kind, CONTENTS)
    backend.on("/receive", key, Answer(hang_up=True))
    async with client(server, key) as connection, Watch.open(server.api, key) as watch:
        await watch.next("session")
        await connection.send("x")
        failed = await watch.next("callback")
        assert (failed["status"], failed["asked"]) == (None, 1)
        assert "expected an HTTP answer" in failed["error"]


async def test_who_may_watch(servers: Servers, key: str) -> None:
    """As who may list; contents are for keys, and only if they may be shown at all."""
    server = await servers.get("uvicorn", {"EKBO_API_KEYS": KEY, **CONTENTS})
    made = await manage("maketoken", "--prefix", f"{key}-", "--verb", "list", "--expires", "1h", env=server.env)
    assert made.status == 0, made.errors
    token = made.lines[-1]
    path = f"/sessions/{key}"
    for target, given, status, words in [
        (f"{path}?watch", "", 401, "not allowed"),
        (f"{path}?watch", token, 403, "not allowed: the token is for keys that begin with"),
        (f"{path}-a?watch&contents", token, 403, "not allowed: contents need one of EKBO_API_KEYS, found a token"),
    ]:
        headers = [("Authorization", f"Bearer {given}")] if given else []
        refused = await request(server, "GET", target, headers)
        assert refused.status == status
        assert words in refused.json()["errors"][0]["error"]
    posted = await request(server, "POST", f"{path}?watch", [("Authorization", f"Bearer {KEY}")], b"")
    assert (posted.status, posted.one("Allow")) == (405, "GET")
    async with Watch.open(server, f"{key}-a", headers=[("Authorization", f"Bearer {token}")]) as watch:
        await watch.next("absent")
    off = await servers.get("uvicorn")
    refused = await request(off, "GET", f"{path}?watch&contents")
    assert (refused.status, refused.json()["errors"]) == (
        403,
        [{"error": "not allowed: contents aren't shown, EKBO_WATCH_CONTENTS is off"}],
    )
    malformed = await request(off, "GET", "/sessions/a,b?watch")
    assert malformed.status == 400
