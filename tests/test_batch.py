"""POST /batch over real sockets: what lines do, in which order, how they are answered, and what can't be done to it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st

from proxy import conf, delivery, tokens
from proxy.handlers import ProxyHandler
from tests.asgi import ask
from tests.backend import Backend, reset
from tests.clients import TIMEOUT, Headers, Http, RawWebSocket, client, ending, receive, request, send
from tests.cluster import Cluster
from tests.fuzzing import examples
from tests.operators import manage, registered
from tests.redis_servers import RedisServer
from tests.servers import ALONE, Server, Servers

pytestmark = pytest.mark.usefixtures("clean_logs")

STREAMING = pytest.mark.parametrize("kind", ["uvicorn", "cluster"])
"""Servers that hand a request on while it comes in; daphne collects it first."""
# Few servers, for starting them is what takes time.
STRICT = {
    "EKBO_STRICT_BROADCAST_MODE_SWITCH": "true",
    "EKBO_MAX_BODY_SIZE": "100",
    "EKBO_MAX_BATCH_LINES": "4",
    "EKBO_MAX_BATCH_LINE_SIZE": "300",
}
LOOSE = {"EKBO_MAX_BATCH_LINES": "0", "EKBO_BLOCKED_TIMEOUT": "1s", "EKBO_MAX_BACKLOG_SIZE": "100000000"}
KEY = "one-key-of-the-api"
NOT_FOUND = "kuiperbelt: session is not found"


def encoded(lines: Iterable[object]) -> bytes:
    """A body; bytes are lines as they are."""
    return b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)


def answers(body: bytes) -> dict[int, dict[str, Any]]:
    """The answers by the number of their line, each without it; in a session's own order or not."""
    lines = [json.loads(line) for line in body.splitlines()]
    numbered = {line.pop("line"): line for line in lines}
    assert len(numbered) == len(lines), "a line was answered twice"
    return numbered


async def batch(
    server: Server, *lines: object, headers: Headers = (), path: str = "/batch"
) -> dict[int, dict[str, Any]]:
    """A whole batch and its answers."""
    response = await request(server.api, "POST", path, headers, encoded(lines), 30)
    assert (response.status, response.one("Content-Type")) == (200, "application/x-ndjson"), response
    return answers(response.body)


def errors(answer: dict[str, Any]) -> list[str]:
    return [error["error"] for error in answer["errors"]]


class Stream:
    """A batch that is still being written, in chunks."""

    def __init__(self, http: Http) -> None:
        self.http = http
        self._left = b""

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, server: Server, *headers: tuple[str, str]) -> AsyncIterator[Stream]:
        async with Http.open(server.api) as http:
            await http.write(http.encode("POST", "/batch", [("Transfer-Encoding", "chunked"), *headers]))
            yield cls(http)

    async def write(self, data: bytes) -> None:
        await self.http.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.http.write(b"0\r\n\r\n")

    async def head(self) -> bytes:
        async with asyncio.timeout(TIMEOUT):
            return await self.http.reader.readuntil(b"\r\n\r\n")

    async def answer(self) -> dict[str, Any]:
        """The next line of the answer."""
        async with asyncio.timeout(TIMEOUT + 5):
            while b"\n" not in self._left:
                size = int(await self.http.reader.readuntil(b"\r\n"), 16)
                self._left += (await self.http.reader.readexactly(size + 2))[:-2]
        line, _, self._left = self._left.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found


async def test_lines(kind: str, servers: Servers, backend: Backend, fresh: Callable[[str], str]) -> None:
    server = await servers.get(kind)
    bob, eve, nobody = fresh("bob"), fresh("eve"), fresh("nobody")
    async with client(server, bob) as to_bob, client(server, eve) as to_eve:
        found = await batch(
            server,
            {"session": bob, "body": "first"},
            {"sessions": [bob, eve, nobody], "body": "hé", "id": "x"},
            b"  ",
            b'{"session":',
            {"session": bob, "base64": "/wA=", "id": 5},
            {"session": eve, "body": "bin", "content_type": "application/octet-stream"},
            b'{"session":"\xff"}',
            {"session": nobody, "body": "x"},
            {"sessions": [eve], "close": True, "body": "bye", "code": 4000, "reason": "moved", "callback": True},
            {"session": eve, "body": "late", "id": "late"},
            {"session": bob, "body": "last"},
        )
        gone = [{"error": NOT_FOUND, "session": nobody}]
        assert found[1] == {"result": "OK"}
        assert found[2] == {"id": "x", "status": 200, "errors": gone, "result": "OK"}
        assert (found[4]["status"], found[4]["result"]) == (400, "NG")
        assert found[5] == {"id": 5, "result": "OK"}
        assert found[7]["errors"] == [{"error": "line: expected UTF-8, found other bytes"}]
        assert found[8] == {"status": 200, "errors": gone, "result": "OK"}
        assert found[9] == {"result": "OK"}
        assert (found[10]["id"], found[10]["errors"][0]["session"]) == ("late", eve)
        assert sorted(found) == [1, 2, 4, 5, 6, 7, 8, 9, 10, 11]
        assert [await receive(to_bob) for _ in range(4)] == ["first", "hé", b"\xff\x00", "last"]
        end = await ending(to_eve)
        assert end.frames == ["hé", b"bin", "bye"]
        assert end.code == 4000
        (event,) = await backend.wait("/close", eve)
        assert event.one("X-Kuiperbelt-Close-Reason") == "operator"


async def test_lines_end_as_a_send_or_close_of_their_own_would(
    kind: str, servers: Servers, fresh: Callable[[str], str]
) -> None:
    server = await servers.get(kind, STRICT)
    bob, nobody = fresh("bob"), fresh("nobody")
    async with client(server, bob) as to_bob:
        for keys, body, content_type in [
            ([bob], b"hello", None),
            ([bob, nobody], b"x", None),
            ([nobody], b"x", None),
            ([bob], b"x" * 101, None),
            ([bob, "bad key"], b"x", None),
            ([bob], b"\xff", "text/plain"),
            ([bob], b"\xff", "application/octet-stream; x=y"),
        ]:
            headers = [("X-Kuiperbelt-Session", key) for key in keys]
            headers += [("Content-Type", content_type)] if content_type else []
            for path, close in (("/send", False), ("/close", True)):
                if close and nobody not in keys:
                    continue
                single = await request(server.api, "POST", path, headers, body)
                line = {"sessions": keys, "close": close}
                line |= {"content_type": content_type} if content_type else {}
                if content_type:
                    line["base64"] = base64.b64encode(body).decode()
                else:
                    line["body"] = body.decode()
                (answer,) = (await batch(server, line)).values()
                status = answer.pop("status", 200)
                assert (status, answer) == (single.status, single.json())
        assert [await receive(to_bob) for _ in range(4)] == ["hello", "hello", b"\xff", b"\xff"]


async def test_ten_thousand_lines_in_order(kind: str, servers: Servers, fresh: Callable[[str], str]) -> None:
    server = await servers.get(kind)
    keys = [fresh("many") for _ in range(5)]
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client(server, key)) for key in keys]
        got = [asyncio.create_task(_numbers(one, 2000)) for one in clients]
        found = await batch(server, *({"session": keys[n % 5], "body": str(n)} for n in range(10_000)))
        assert found == {number: {"result": "OK"} for number in range(1, 10_001)}
        for first, task in enumerate(got):
            assert await task == list(range(first, 10_000, 5))


async def _numbers(connection: Any, count: int) -> list[int]:
    return [int(await receive(connection, 30)) for _ in range(count)]


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_where_the_pieces_end_does_not_matter(kind: str, size: int, servers: Servers, key: str) -> None:
    server = await servers.get(kind)
    body = encoded([*({"session": key, "body": f"é{n}"} for n in range(8)), {"session": key, "body": "end"}])[:-1]
    async with client(server, key) as connection, Stream.open(server) as stream:
        for start in range(0, len(body), size):
            await stream.write(body[start : start + size])
        await stream.end()
        response = await stream.http.response()
        assert answers(response.body) == {number: {"result": "OK"} for number in range(1, 10)}
        assert [await receive(connection) for _ in range(9)] == [*(f"é{n}" for n in range(8)), "end"]
        # The connection is as good as new.
        assert (await stream.http.request("POST", "/ping", (), b"")).status == 200


@STREAMING
async def test_lines_are_answered_while_others_are_still_to_come(kind: str, servers: Servers, key: str) -> None:
    server = await servers.get(kind)
    async with client(server, key) as connection, Stream.open(server, ("Expect", "100-continue")) as stream:
        assert b" 100 " in await stream.head()
        for number in range(1, 4):
            await stream.write(encoded([{"session": key, "body": f"{number}"}]))
            if number == 1:
                assert b" 200 " in await stream.head()
            assert await stream.answer() == {"line": number, "result": "OK"}
            assert await receive(connection) == f"{number}"
        await stream.write(b'{"session":')
        await stream.end()
        assert (await stream.answer())["status"] == 400


async def test_garbage_is_answered_line_by_line(kind: str, servers: Servers, key: str) -> None:
    server = await servers.get(kind)
    chance = random.Random(5)
    good = json.dumps({"session": key, "body": "good"}).encode()
    lines = []
    for _ in range(300):
        line = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            line[chance.randrange(len(line))] = chance.choice([0, 0xFF, *'{}[]":,\\u0aé \r'.encode()])
        lines.append(bytes(line))
    async with client(server, key) as connection:
        found = await batch(server, *lines, {"session": key, "body": "the end"})
        assert sorted(found) == list(range(1, 302))
        assert found[301] == {"result": "OK"}
        taken = sum(answer["result"] == "OK" and "errors" not in answer for answer in found.values())
        frames = [await receive(connection) for _ in range(taken)]
        assert frames[-1] == "the end"
        assert {answer.get("status", 200) for answer in found.values()} == {200, 400}


@examples(50)
@given(st.lists(st.binary(max_size=40) | st.just(b'{"session":"nobody","body":"x"}\n'), max_size=12))
def test_whatever_comes_each_line_is_answered_once(pieces: list[bytes]) -> None:
    answer = asyncio.run(ask("POST", "/batch", body=pieces or [b""]))
    assert answer
    assert answer.whole
    body = b"".join(pieces)
    expected = [number for number, line in enumerate(body.split(b"\n"), 1) if line.strip()]
    assert sorted(answers(answer.body)) == expected


async def test_limits(kind: str, servers: Servers, key: str) -> None:
    server = await servers.get(kind, STRICT)
    good, long, large = ({"session": key, "body": body} for body in ("good", "x" * 400, "x" * 101))
    async with client(server, key) as connection:
        found = await batch(server, good, long, large, good)
        assert [found[number].get("status") for number in (1, 2, 3, 4)] == [None, 413, 413, None]
        assert "EKBO_MAX_BATCH_LINE_SIZE" in errors(found[2])[0]
        assert "EKBO_MAX_BODY_SIZE" in errors(found[3])[0]
        found = await batch(server, *[good] * 7)
        assert sorted(found) == [1, 2, 3, 4, 5]
        assert (found[5]["status"], "EKBO_MAX_BATCH_LINES" in errors(found[5])[0]) == (413, True)
        assert [await receive(connection) for _ in range(6)] == ["good"] * 6
        assert (await send(server, key, b"end")).status == 200
        assert await receive(connection) == "end"


async def test_hang_up(kind: str, servers: Servers, fresh: Callable[[str], str]) -> None:
    """What came in whole is done, half a line is not; where the server hands the request on as it comes."""
    server = await servers.get(kind)
    key = fresh("hang")
    async with client(server, key) as connection:
        for end in (reset, lambda writer: writer.close()):
            async with Stream.open(server) as stream:
                await stream.write(encoded([{"session": key, "body": "whole"}]) + b'{"session":"%b"' % key.encode())
                await stream.write(b',"body":"half"}')
                if kind != "daphne":
                    assert await receive(connection) == "whole"
                end(stream.http.writer)
        assert (await send(server, key, b"after")).status == 200
        assert await receive(connection) == "after"


@STREAMING
async def test_a_caller_that_does_not_read_is_not_read_from(kind: str, servers: Servers, key: str) -> None:
    server = await servers.get(kind, LOOSE)
    size = 64 * 1024
    # Each answer is about as long as its line.
    line = encoded([{"sessions": ["nobody"] * 100, "body": "x"}])
    lines = line * (size // len(line) + 1)
    async with client(server, key) as connection, Stream.open(server) as stream:
        await stream.write(lines)
        before = _memory(server.api)
        written = 0
        with contextlib.suppress(TimeoutError):
            while written < 64 << 20:
                async with asyncio.timeout(1):
                    await stream.write(lines)
                written += len(lines)
        assert written < 48 << 20, "it read on"
        assert _memory(server.api) - before < 24 << 20
        began = time.monotonic()
        assert (await send(server, key)).status == 200
        assert await receive(connection) == "hello"
        assert time.monotonic() - began < 1
        reset(stream.http.writer)
    assert (await send(server, "nobody")).status == 200


def _memory(server: Server) -> int:
    """Bytes that the server's process has in memory."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


async def test_a_blocked_session_holds_up_its_own_lines_only(kind: str, servers: Servers, key: str) -> None:
    server = await servers.get(kind, LOOSE)
    blocked, big = f"{key}-blocked", "x" * (1 << 20)
    async with client(server, key) as connection, RawWebSocket.connected(server, blocked, receive_buffer=4096):
        lines: list[object] = [{"session": blocked, "body": big} for _ in range(8)]
        lines += [{"session": key, "body": "through"}, {"sessions": [key, blocked], "body": "both"}]
        response = await request(server.api, "POST", "/batch", (), encoded(lines), 30)
        order = [json.loads(line) for line in response.body.splitlines()]
        assert [await receive(connection) for _ in range(2)] == ["through", "both"]
        assert len(order) == 10
        numbers = [line["line"] for line in order]
        found = answers(response.body)
        assert found[9] == {"result": "OK"}
        assert found[10]["errors"] == [{"error": "kuiperbelt: session is closed", "session": blocked}]
        assert numbers.index(9) < numbers.index(10)
        failed = [number for number in range(1, 9) if "errors" in found[number]]
        assert failed == list(range(failed[0], 9))
        assert numbers.index(9) < numbers.index(failed[0])


@pytest.mark.parametrize(("window", "begun"), [(3, 4), (0, 1)])
async def test_the_window(window: int, begun: int) -> None:
    """No more sessions are waited for than the window allows; 0: one line at a time."""
    layer, outcomes = delivery.layer(), list[asyncio.Future[None]]()

    def blocked(event: object) -> asyncio.Future[None]:
        outcomes.append(asyncio.get_running_loop().create_future())
        return outcomes[-1]

    channel = await layer.new_channel()
    layer.attach(channel, blocked)
    await layer.group_add(delivery.group_name("blocked"), channel)
    try:
        with override_settings(KUIPERBELT=conf.Options(batch_window=window)):
            asked = asyncio.create_task(
                ask("POST", "/batch", body=[encoded([{"session": "blocked", "body": "x"}] * 9)])
            )
            for done in range(9 - begun):
                for _ in range(20):
                    await asyncio.sleep(0)
                assert len(outcomes) == done + begun
                outcomes[done].set_result(None)
            while not asked.done():
                await asyncio.sleep(0)
                for outcome in outcomes:
                    if not outcome.done():
                        outcome.set_result(None)
        answer = await asked
    finally:
        layer.detach(channel)
    assert answer
    assert answers(answer.body) == {number: {"result": "OK"} for number in range(1, 10)}


async def test_a_batch_over_a_slow_network_is_no_round_trip_per_line(servers: Servers, redis: RedisServer) -> None:
    async with Cluster.running(servers, ["uvicorn", "uvicorn"], redis) as cluster:
        here, there = cluster.nodes
        await cluster.all_ready()
        async with client(there.server, "far") as far:
            here.wire.latency = 0.05
            began = time.monotonic()
            found = await batch(here.server, *({"session": "far", "body": str(n)} for n in range(500)))
            assert found == {number: {"result": "OK"} for number in range(1, 501)}
            assert time.monotonic() - began < 5  # 500 round trips take 50 s
            assert await _numbers(far, 500) == list(range(500))


@pytest.mark.parametrize("kind", ALONE)
async def test_tokens(servers: Servers, kind: str) -> None:
    server = await servers.get(kind)
    made = await manage("maketoken", "--prefix=room1.", "--verb=send", env=server.env)
    (token,) = made.lines
    async with client(server, "room1.bob") as bob, client(server, "room2.eve") as eve:
        await registered(server, "room1.bob", "room2.eve")
        found = await batch(
            server,
            {"session": "room1.bob", "body": "one"},
            {"session": "room2.eve", "body": "x", "id": 1},
            {"sessions": ["room1.bob", "room2.eve"], "body": "x"},
            {"session": "room1.bob", "close": True},
            {"session": "room1.bob", "body": "two"},
            headers=[("Authorization", f"Bearer {token}")],
        )
        assert [found[number].get("status") for number in range(1, 6)] == [None, 403, 403, 403, None]
        prefix = "not allowed: the token is for keys that begin with room1., not for room2.eve"
        assert found[2] == {"id": 1, "status": 403, "errors": [{"error": prefix}], "result": "NG"}
        assert errors(found[4]) == ["not allowed: the token is for send, not for close"]
        assert [await receive(bob) for _ in range(2)] == ["one", "two"]
        with pytest.raises(TimeoutError):
            await receive(eve, 0.1)


async def test_a_token_that_ends_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_revoked", frozenset())
    token = tokens.sign(tokens.Grant("id", "", ("send",), int(time.time()) + 60))
    line = encoded([{"session": "bob", "body": "x"}])

    class Piece(bytes):
        """Revokes the token as it comes in."""

        def split(self, *arguments: Any) -> list[bytes]:
            tokens.set_revoked(["id"])
            return super().split(*arguments)

    answer = await ask("POST", "/batch", (b"authorization", f"Bearer {token}".encode()), body=[Piece(line), line, line])
    assert answer
    found = answers(answer.body)
    assert found[1]["status"] == 200
    assert found[2] == {"status": 401, "errors": [{"error": "not allowed: the token is revoked"}], "result": "NG"}
    assert sorted(found) == [1, 2]


async def test_who_may(servers: Servers) -> None:
    server = await servers.get(
        "uvicorn", {"EKBO_API_KEYS": f"{KEY},another-key-of-the-api", "EKBO_BATCH_PATH": "/many"}
    )
    line = encoded([{"session": "nobody", "body": "x"}])
    for method, headers, status in (
        ("POST", [], 401),
        ("POST", [("Authorization", "Bearer wrong")], 401),
        ("GET", [("Authorization", "Bearer another-key-of-the-api")], 405),
        ("POST", [("Authorization", "Bearer another-key-of-the-api")], 200),
    ):
        response = await request(server, method, "/many", headers, line if method == "POST" else None)
        assert response.status == status
        assert status == 200 or response.json()["result"] == "NG"
    assert (await request(server, "POST", "/batch", [("Authorization", f"Bearer {KEY}")], line)).status == 404
    forwarded = [("X-Forwarded-For", "8.8.8.8")]
    for kind in ALONE:
        assert (await request(await servers.get(kind), "POST", "/batch", forwarded, line)).status == 403


async def test_beside_an_api_listener_the_public_one_has_no_batch(servers: Servers, tmp_path: Path) -> None:
    server = await servers.start("uvicorn", {"EKBO_API_SOCK": str(tmp_path / "api")})
    line = encoded([{"session": "nobody", "body": "x"}])
    assert (await request(server, "POST", "/batch", (), line)).status == 404
    assert (await request(server.api, "POST", "/batch", (), line)).status == 200
    await server.stop()


async def test_the_server_ends() -> None:
    """uvicorn then cancels what takes too long: the answer says so, and ends in good order."""
    asked, sent = asyncio.Event(), list[Any]()
    pieces = [{"type": "http.request", "body": encoded([{"session": "nobody", "body": "x"}] * 2), "more_body": True}]

    async def receive() -> Any:
        if pieces:
            return pieces.pop()
        asked.set()
        return await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    async def fallback(*arguments: Any) -> None:
        raise AssertionError("not for Django")

    scope = {"type": "http", "method": "POST", "path": "/batch", "headers": [], "client": ("127.0.0.1", 5)}
    task = asyncio.create_task(ProxyHandler(fallback)(scope, receive, send))
    await asked.wait()
    task.cancel()
    await task
    found = answers(b"".join(message.get("body", b"") for message in sent))
    assert found[3] == {"status": 503, "errors": [{"error": "shutting down"}], "result": "NG"}
    assert (sorted(found), sent[-1].get("more_body", False)) == ([1, 2, 3], False)


async def test_an_empty_batch_and_one_without_lines() -> None:
    with override_settings(KUIPERBELT=conf.Options(max_batch_lines=3)):
        for pieces in ([b""], [b"\n", b" \r\n"], [b"\t"]):
            answer = await ask("POST", "/batch", body=pieces)
            assert answer
            assert (answer.status, answer.body, answer.headers["x-accel-buffering"]) == (200, b"", "no")


async def test_hang_up_before_anything_came() -> None:
    assert await ask("POST", "/batch", body=[], hang_up=True) is None
