"""kuiperbelt's answers beside ours: the same requests, the same config.yml, the same backend (`make drop-in`).

`python -m tests.dropin` runs both and prints what each request got. What kuiperbelt answered is kept in
tests/recorded/kuiperbelt.json (`--record`), with which tests/test_dropin.py compares ours where there is no kuiperbelt.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from bench.peers import Kuiperbelt
from tests.backend import Answer, Backend, welcome
from tests.clients import Headers, RawWebSocket, client, receive, request, send
from tests.redis_servers import eventually
from tests.servers import ROOT, Server, environment, free_port, spawn
from tests.test_contract_send import call
from tests.vectors import Call, Connect, filled, filled_headers

RECORDED = ROOT / "tests/recorded/kuiperbelt.json"
MARKER = "-- marker --"
SESSION = "X-Kuiperbelt-Session"
CONFIG = """\
port: {{ must_env "PORT" }}
callback:
  connect: http://{{ must_env "BACKEND" }}/connect
  establish: http://{{ must_env "BACKEND" }}/establish
  close: http://{{ must_env "BACKEND" }}/close
  receive: http://{{ must_env "BACKEND" }}/receive
strict_broadcast: {{ env "STRICT" "false" }}
origin_policy: {{ env "ORIGIN" "none" }}
proxy_set_header:
  X-Added: "by config.yml"
  X-Taken: ""
"""
"""Both read this file. Without `timeout`: kuiperbelt, if it has one, loses first frames at random."""
STRICT = (("STRICT", "true"),)
HOSTNAME = (("ORIGIN", "same_hostname"),)

Variables = tuple[tuple[str, str], ...]
Result = dict[str, Any]
"""What a request got, by the name of the part."""


@dataclass(frozen=True)
class Asked:
    """One request, and in which parts of what comes of it we differ from kuiperbelt, on purpose."""

    name: str
    do: Call | Connect
    differs: frozenset[str] = frozenset()
    why: str = ""
    """The row of docs/howto-kuiperbelt.md."""
    variables: Variables = ()
    """What config.yml takes from the environment."""


def to(*keys: str) -> Headers:
    """A session header line per key."""
    return [(SESSION, key) for key in keys]


def typed(content_type: str, key: str = "{a}") -> Headers:
    """To a session, with a content type."""
    return [*to(key), ("Content-Type", content_type)]


def asked(name: str, do: Call | Connect, differs: str = "", why: str = "", variables: Variables = ()) -> Asked:
    """A request; `differs` has the parts' names."""
    return Asked(name, do, frozenset(differs.split()), why, variables)


LOST_TYPE = ("type", "errors' `Content-Type`")
KEYS = "over 1,000 keys, a body over 1 MiB, a malformed key"
CLOSES = ("a_end", "`/close`")
BEFORE = "a bad handshake or Origin"
HOSTNAME_ROW = "`origin_policy: same_hostname`"
NOT_OURS = "another path"

SENDS = [
    asked("one session", Call()),
    asked("two sessions", Call(to("{a}", "{b}"))),
    asked("a session twice", Call(to("{a}", "{a}"))),
    asked("header in lower case", Call([("x-kuiperbelt-session", "{a}")])),
    asked("unknown session", Call(to("{x}")), *LOST_TYPE),
    asked("one of two unknown", Call(to("{a}", "{x}")), *LOST_TYPE),
    asked("unknown before known", Call(to("{x}", "{b}")), *LOST_TYPE),
    asked("unknown twice", Call(to("{x}", "{a}", "{x}")), *LOST_TYPE),
    asked("another case", Call(to("A{a}")), *LOST_TYPE),
    asked("a key of 256", Call(to("k" * 256)), *LOST_TYPE),
    asked("a key of signs", Call(to('"\\<{x}&>')), *LOST_TYPE),
    asked("octets", Call(typed("application/octet-stream"), b"\xff\x00\xfe")),
    asked("octets with a parameter", Call(typed("APPLICATION/OCTET-STREAM; x=y"), b"\xff")),
    asked("text", Call(typed("text/plain; charset=utf-8"), "grüß".encode())),
    asked("JSON", Call(typed("application/json"), b'{"a": 1}')),
    asked("almost octets", Call(typed("application/octet-streams"), b"t")),
    asked("chunks", Call(body=b"in many chunks", chunk=3)),
    asked("empty", Call(body=b"")),
    asked("no body", Call(body=None)),
    asked("64 KiB", Call(body=b"x" * 65536)),
    asked("with a query", Call(path="/send?x=y")),
    asked("no session header", Call([])),
    asked("GET", Call(method="GET", body=None)),
    asked("PUT", Call(method="PUT")),
    asked("DELETE", Call(method="DELETE", body=None)),
    asked("HEAD", Call(method="HEAD", body=None)),
    asked("an empty key", Call(to("")), "status type body", KEYS),
    asked("a key with a space", Call(to("a b")), "status type body", KEYS),
    asked("a key of 257", Call(to("k" * 257)), "status type body", KEYS),
    asked("1,001 keys", Call(to(*["{x}"] * 1001)), "status type body", KEYS),
    asked("over 1 MiB", Call(body=b"x" * (1024 * 1024 + 1)), "status body a", KEYS),
    asked("keys in a list", Call(to("{a},{b}")), "type body a b", "keys in a list, with commas"),
    asked("text that isn't UTF-8", Call(body=b"\xff"), "status body a_end", "`/send` with text that isn't UTF-8"),
    asked("strict, all there", Call(to("{a}", "{b}")), variables=STRICT),
    asked("strict, one unknown", Call(to("{a}", "{x}")), *LOST_TYPE, variables=STRICT),
    asked("strict, only unknown", Call(to("{x}")), *LOST_TYPE, variables=STRICT),
]
CLOSE = [
    asked("close", Call(path="/close", body=b"bye"), *CLOSES),
    asked("close two", Call(to("{a}", "{b}"), path="/close"), "a_end b_end", CLOSES[1]),
    asked("close without a word", Call(path="/close", body=b""), "a a_end", CLOSES[1]),
    asked("close, unknown", Call(to("{x}"), path="/close"), *LOST_TYPE),
    asked("close, one unknown", Call(to("{x}", "{b}"), path="/close"), "type b_end", CLOSES[1]),
    asked("close, no header", Call([], path="/close")),
    asked("close, GET", Call(method="GET", path="/close", body=None)),
    asked("close, strict, one unknown", Call(to("{a}", "{x}"), path="/close"), *LOST_TYPE, variables=STRICT),
]
MONITORING = [
    asked("ping", Call([], None, "GET", "/ping")),
    asked("ping, POST", Call([], b"x", "POST", "/ping")),
    asked("ping, HEAD", Call([], None, "HEAD", "/ping")),
    asked("stats", Call([], None, "GET", "/stats")),
    asked("stats, tsv", Call([], None, "GET", "/stats?format=tsv")),
    asked("stats, txt", Call([], None, "GET", "/stats?format=txt")),
    asked("stats, another format", Call([], None, "GET", "/stats?format=xml")),
    asked("another path", Call([], None, "GET", "/nothing"), "body type", NOT_OURS),
]
PLAIN = ("Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version")
CONNECTS = [
    asked("connect", Connect()),
    asked("connect, first frame", Connect(answer=welcome("{a}", b"hello"))),
    asked(
        "connect, first frame of octets",
        Connect(answer=welcome("{a}", b"\xff", ("Content-Type", "application/octet-stream"))),
    ),
    asked(
        "connect, query and headers",
        Connect("key={key}&x=1&x=%20y", [("X-Own", "1"), ("X-Own", "2"), ("X-Taken", "3")]),
    ),
    asked("connect, 401", Connect(answer=Answer(401, [("Content-Type", "text/html; charset=x")], b"log in"))),
    asked("connect, 403", Connect(answer=Answer(403, [("Content-Type", "application/json")], b"{}"))),
    asked("connect, 500", Connect(answer=Answer(500, [("Content-Type", "text/plain")], b"oh"))),
    asked("connect, 204", Connect(answer=Answer(204, [("Content-Type", "text/plain")]))),
    asked("connect, nonsense", Connect(answer=Answer(raw=b"nonsense\r\n\r\n"))),
    asked("connect, no key", Connect(answer=Answer()), "status body", "a 200 without a key, or with two"),
    asked(
        "connect, two keys", Connect(answer=welcome("{a}", b"", (SESSION, "{a}-2"))), "status body type first",
        "a 200 without a key, or with two",
    ),
    asked(
        "connect, redirected", Connect(answer=Answer(302, [("Location", "/connect?key={a}-2")])),
        "status body type first asked", "a redirect as answer",
    ),
    asked("connect, no handshake", Connect(without=PLAIN), "status body asked", BEFORE),
    asked(
        "connect, another version", Connect(headers=[("Sec-WebSocket-Version", "12")], without=PLAIN[3:]),
        "status body asked", BEFORE,
    ),
    asked(
        "connect, a Host without port", Connect(headers=[("Host", "chat.example"), ("Origin", "http://chat.example")]),
        "status body type first", HOSTNAME_ROW, HOSTNAME,
    ),
    asked(
        "connect, no Origin", Connect(headers=[("Host", "chat.example:80")]),
        "status body type first", HOSTNAME_ROW, HOSTNAME,
    ),
    asked(
        "connect, own Origin", Connect(headers=[("Host", "chat.example:80"), ("Origin", "http://chat.example")]),
        variables=HOSTNAME,
    ),
    asked(
        "connect, another's Origin", Connect(headers=[("Host", "chat.example:80"), ("Origin", "http://evil.example")]),
        "body asked", BEFORE, HOSTNAME,
    ),
    asked(
        "connect, forged", Connect(headers=[("X-Kuiperbelt-Endpoint", "evil"), (SESSION, "forged")]), "asked",
        "headers that a client forges (`X-Kuiperbelt-*`, the session header)",
    ),
]  # fmt: skip
ALL = [*SENDS, *CLOSE, *MONITORING, *CONNECTS]


async def result(server: Server, backend: Backend, row: Asked) -> Result:
    """Carry a request out, and say what came of it."""
    # Keys of its own: in kuiperbelt the late end of a session removes the next one that has its key.
    names = {short: f"{name}-{ALL.index(row)}" for short, name in (("a", "alice"), ("b", "bob"), ("x", "nobody"))}
    if isinstance(row.do, Connect):
        return await _connected(server, backend, row.do, names["a"])
    for key in names.values():
        backend.on("/connect", key, welcome(key, b"welcome"))
    async with client(server, names["a"]) as a, client(server, names["b"]) as b:
        # kuiperbelt's sessions are there with the first frame, not with the handshake.
        assert await receive(a) == await receive(b) == "welcome"
        answer = await _called(server, row.do, names)
        outcomes = {"a": await _outcome(server, a, names["a"]), "b": await _outcome(server, b, names["b"])}
    for name, (frames, end) in outcomes.items():
        answer |= {name: frames} if row.do.path.startswith(("/send", "/close")) else {}
        answer |= {f"{name}_end": end} if end is not None else {}
    return answer


async def _called(server: Server, do: Call, names: dict[str, str]) -> Result:
    response = await call(server, do, names)
    text = response.body.decode()
    return {
        "status": response.status,
        "type": response.one("Content-Type"),
        # The time, and what earlier requests have counted.
        "body": re.sub(r"(?<=[\t:])\d+", "N", text) if "/stats" in do.path else text[:400],
    }


async def _outcome(server: Server, connection: ClientConnection, key: str) -> tuple[list[str], int | None]:
    """What a client got: frames, and the code of its end if it ended."""
    await send(server, key, MARKER.encode())
    frames: list[str] = []
    try:
        while (frame := await receive(connection)) != MARKER:
            text = frame if isinstance(frame, str) else f"octets {frame.hex()}"
            frames.append(text if len(text) < 100 else f"{text[0]} x {len(text)}")
    except ConnectionClosed as closed:
        close = closed.rcvd or closed.sent
        return frames, int(close.code) if close else 1006
    return frames, None


async def _marked(server: Server, *keys: str) -> bool:
    """Has one of them got the marker? kuiperbelt's sessions are there a while after the handshake."""
    return any([b"errors" not in (await send(server, key, MARKER.encode())).body for key in keys])


async def _connected(server: Server, backend: Backend, do: Connect, key: str) -> Result:
    backend.requests.clear()
    if do.answer:
        lines = filled_headers(do.answer.headers, {"a": key})
        backend.on("/connect", key, replace(do.answer, headers=lines))
    query = filled(do.query, {"key": key})
    try:
        async with RawWebSocket.open(server) as raw:
            response = await raw.handshake(f"/connect?{query}", do.headers, do.without)
            found: Result = {"status": response.status}
            if response.status == 101:
                # Ours takes pushes while the establish callback runs, before the first frame.
                first = [await raw.frame()] if do.answer and do.answer.body else []
                await eventually(lambda: _marked(server, key, f"{key}-2"), "a session")
                while (frame := await raw.frame())[1] != MARKER.encode():
                    first.append(frame)
                found |= {"first": [f"opcode {opcode}: {payload.hex()}" for opcode, payload in first]}
            else:
                found |= {"type": response.one("Content-Type"), "body": response.body.decode()}
        if response.status == 101:
            await backend.until(lambda: any(each.path == "/close" for each in backend.requests), "the close callback")
    finally:
        backend.scripts.clear()
    return found | {"asked": [_seen(each) for each in backend.requests if each.path == "/connect"]}


OURS = {
    *("x-kuiperbelt-connection", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"),
    *("accept-encoding", "user-agent", "referer"),
}
"""Headers of a connect callback that only we add, and those of HTTP clients themselves."""


def _seen(asked: Any) -> list[str]:
    """A callback, in words that don't name ports."""
    headers = sorted(f"{name.lower()}: {value}" for name, value in asked.headers if name.lower() not in OURS)
    lines = [f"{asked.method} {asked.target}", *headers, f"{len(asked.body)} bytes"]
    return [re.sub(r"[\w.-]+:\d{4,5}\b", "HOST:PORT", line) for line in lines]


async def life(server: Server, backend: Backend) -> list[list[str]]:
    """The callbacks of one client's life, but for the first: establish, receive of text and of octets, close."""
    backend.requests.clear()
    async with client(server, "carol") as connection:
        await connection.send("grüße")
        await connection.send(b"\xff\x00")
        await backend.wait("/receive", "carol", 2)
    await backend.wait("/close", "carol")
    wanted = ("content-type", SESSION.lower())
    return [
        [f"{each.method} {each.target}", each.body.hex(), *(f"{name}: {each.one(name)}" for name in wanted)]
        for each in backend.requests[1:]
    ]


async def results(servers: Mapping[Variables, Server], backend: Backend) -> dict[str, Any]:
    """What comes of all of them."""
    found: dict[str, Any] = {row.name: await result(servers[row.variables], backend, row) for row in ALL}
    return found | {"a life": await life(servers[()], backend)}


def judged(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """For each request: its name, what there is to say, and whether that is as it should be."""
    lines = []
    for row in ALL:
        one, other = theirs[row.name], ours[row.name]
        found = {part for part in {*one, *other} if one.get(part) != other.get(part)}
        shown = "; ".join(
            f"{part}: kuiperbelt {one.get(part)!r:.90}, here {other.get(part)!r:.90}" for part in sorted(found)
        )
        verdict = (
            f"on purpose ({row.why}): {shown}" if found == row.differs else f"expected {sorted(row.differs)}: {shown}"
        )
        lines.append((row.name, verdict if found or row.differs else "the same", found == row.differs))
    same = theirs["a life"] == ours["a life"]
    return [*lines, ("a life", "the same" if same else f"{theirs['a life']} {ours['a life']}", same)]


@contextlib.asynccontextmanager
async def running(name: str, variables: Variables, backend: Backend, home: Path) -> AsyncIterator[Server]:
    """kuiperbelt or ours, with the same file."""
    port = free_port()
    env = {"PORT": str(port), "BACKEND": f"127.0.0.1:{backend.port}", **dict(variables)}
    log = home / f"{name}-{port}.log"
    if name == "kuiperbelt":
        given = environment(0, {}) | env | {"GOPS_CONFIG_DIR": str(home)}
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                Kuiperbelt().path(), "-config", ours(home)["EKBO_CONFIG"], env=given, stdout=output, stderr=output
            )
    else:
        process = await spawn("uvicorn", port, "", environment(0, ours(home) | env), log)
    server = Server(name, {}, port, log, process)

    async def answers() -> bool:
        assert process.returncode is None, server.output()
        return (await request(server, "GET", "/ping")).status == 200

    try:
        await eventually(answers, name)
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def ours(home: Path) -> dict[str, str]:
    """Variables of ours: the file, and nothing over it that `tests.servers` would set."""
    (home / "config.yml").write_text(CONFIG)
    set_by_tests = [f"EKBO_{name}_CALLBACK_URL" for name in ("CONNECT", "ESTABLISH", "RECEIVE", "CLOSE")]
    unset = dict.fromkeys([*set_by_tests, "EKBO_CALLBACK_TIMEOUT"], "")
    return unset | {"EKBO_CONFIG": str(home / "config.yml"), "EKBO_DATABASE_URL": f"sqlite:///{home}/db.sqlite3"}


async def both(name: str, home: Path) -> dict[str, Any]:
    """All results of one of the two."""
    backend = Backend()
    await backend.start()
    try:
        async with contextlib.AsyncExitStack() as stack:
            servers = {
                variables: await stack.enter_async_context(running(name, variables, backend, home))
                for variables in sorted({row.variables for row in ALL})
            }
            return await results(servers, backend)
    finally:
        await backend.stop()


def main() -> int:
    """Compare, print, perhaps record; the exit status is 1 if something isn't as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--record", action="store_true", help=f"write kuiperbelt's answers into {RECORDED.name}")
    options = parser.parse_args()
    if missing := Kuiperbelt().missing():
        sys.exit(missing)
    with tempfile.TemporaryDirectory() as folder:
        theirs, here = (asyncio.run(both(name, Path(folder))) for name in ("kuiperbelt", "here"))
    lines = judged(theirs, here)
    for name, verdict, _ in lines:
        print(f"{name:<32} {verdict}")
    wrong = [name for name, _, right in lines if not right]
    print(f"{len(lines) - len(wrong)} of {len(lines)} as they should be", *wrong, sep="\n  ")
    if options.record:
        RECORDED.write_text(json.dumps(theirs, indent=1, ensure_ascii=False) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
