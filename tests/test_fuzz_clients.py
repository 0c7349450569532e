"""Whatever bytes a client sends: what of its handshake reaches the backend, and how its connection ends."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import struct
import uuid
from collections.abc import Iterator, Sequence
from urllib.parse import unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.protocol import is_session_key
from tests.backend import Answer, Request, reset, welcome
from tests.clients import CLOSE, Http, RawWebSocket, handshake_headers, masked, request
from tests.fuzzing import World, examples
from tests.servers import ALONE, Server
from tests.vectors_api import OK

CONFIGURED = [("role", "guest"), ("app_id", "7")]
"""Parameters of the configured URL."""
ENDPOINT = "node:1"
LEFT_OUT = """
    connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade
    content-length expect proxy forwarded x-real-ip sec-websocket-key sec-websocket-version sec-websocket-extensions
    sec-websocket-protocol x-app-session
"""
"""What no backend may see of a client's: this hop's own (RFC 9110 section 7.6.1), and what would be believed."""
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
LIMIT = 10.0  # seconds within which a connection must have ended


class Clients(World):
    """A server of each kind."""

    async def start(self) -> None:
        await super().start()
        self.numbers = itertools.count(1)
        self.backend.on("/connect", "*", let_in)
        url = "http://{backend}/connect?" + "&".join(f"{name}={value}" for name, value in CONFIGURED)
        env = {"EKBO_SESSION_HEADER_NAME": "X-App-Session", "EKBO_SELF_ENDPOINT_URL": ENDPOINT}
        fuzzed, told = await asyncio.gather(
            asyncio.gather(*(self.servers.start(kind, {**env, "EKBO_CONNECT_CALLBACK_URL": url}) for kind in ALONE)),
            asyncio.gather(*(self.servers.start(kind, {"EKBO_MAX_MESSAGE_SIZE": "2000"}) for kind in ALONE)),
        )
        self.strict = dict(zip(ALONE, fuzzed, strict=True))
        self.plain = dict(zip(ALONE, told, strict=True))


def let_in(request: Request) -> Answer:
    """As the key that it asks for, if it is one."""
    return welcome(request.key if is_session_key(request.key) else uuid.uuid4().hex)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    with Clients.running(tmp_path_factory.mktemp("clients")) as world:
        yield world


# Handshakes

OTHERS = """
    x-kuiperbelt-endpoint x-kuiperbelt-connection x-kuiperbelt-session x_app_session x-forwarded-for x-forwarded-proto
    x-forwarded-host cookie authorization accept-encoding user-agent origin x-user
"""
NAMES = [*LEFT_OUT.split(), *OTHERS.split()]
name = st.one_of(st.sampled_from(NAMES), st.sampled_from(NAMES).map(str.title)).map(str.encode)
odd_name = st.binary(min_size=1, max_size=12) | name.map(lambda value: value.replace(b"-", b"_") + b" ")
value = st.one_of(
    st.sampled_from(
        [b"x", b"7", b"close, x-user", b"X-User,cookie", b"a\tb", b"127.0.0.1:1", b"chunked", b"websocket"]
    ),
    st.text(max_size=20).map(str.encode),
    st.binary(max_size=20),
)
line = st.tuples(st.one_of(name, name, name, odd_name), st.sampled_from([b": ", b":", b" : "]), value).map(b"".join)
parameter_names = st.sampled_from(
    [b"role", b"r%6fle", b"+role", b"role%00", b"role[]", b"[role]", b"app.id", b"app%20id", b"app[id", b"Role", b"a"]
)
query = st.lists(
    st.one_of(
        st.tuples(parameter_names | st.binary(max_size=8), st.sampled_from([b"=", b"%3d", b""]), value).map(b"".join),
        st.sampled_from([b"&", b";", b"&&", b"#", b"?", b"%", b"&amp;"]),
        st.binary(max_size=8),
    ),
    max_size=8,
).map(b"&".join)


@pytest.mark.parametrize("kind", ALONE)
@examples(150)
@given(query, st.lists(line, max_size=6))
def test_no_backend_sees_what_it_must_not(world: Clients, kind: str, query: bytes, lines: list[bytes]) -> None:
    """Hop-by-hop and forged headers, control characters, and doubles of a configured parameter."""
    before = len(world.backend.requests)
    server = world.strict[kind]
    head = [b"GET /connect?" + query + b" HTTP/1.1", b"Host: " + server.host.encode()]
    head += [f"{name}: {value}".encode() for name, value in handshake_headers()]
    world.do(handshake(server, b"\r\n".join([*head, *lines, b"", b""])))
    for asked in world.backend.requests[before:]:
        if asked.path == "/connect":
            assert asked.all("host") == [f"127.0.0.1:{world.backend.port}"], asked
            check_headers(asked, lines)
            check_query(asked.query)


async def handshake(server: Server, raw: bytes) -> None:
    """Send a handshake, and be gone after the first line of the answer."""
    async with Http.open(server) as http:
        await http.write(raw)
        http.writer.write_eof()
        async with asyncio.timeout(LIMIT):
            answer = await http.reader.read(16)
    # Daphne itself answers 500 to a subprotocol that isn't ASCII, before it asks the application.
    expected = rb"HTTP/1.1 (101|4\d\d|50[02])" if server.kind == "daphne" else rb"HTTP/1.1 (101|4\d\d|502)"
    assert not answer or re.match(expected, answer), answer
    assert (await request(server, "GET", "/ping")).body == OK


def check_headers(asked: Request, lines: Sequence[bytes]) -> None:
    """Those that the proxy makes are there once, with its own values."""
    for name, value in asked.headers:
        assert TOKEN.fullmatch(name), asked
        assert "_" not in name, asked
        assert not any(character < " " or character == "\x7f" for character in value if character != "\t"), asked
    assert not asked.names & set(LEFT_OUT.split()), asked
    ours = {name for name in asked.names if name.startswith(("x-kuiperbelt-", "x-forwarded-"))}
    expected = {"x-kuiperbelt-endpoint", "x-kuiperbelt-connection", "x-forwarded-for", "x-forwarded-proto"}
    assert ours - {"x-forwarded-host", "x-kuiperbelt-subprotocols"} == expected, asked
    assert (asked.one("accept-encoding"), asked.one("x-forwarded-for")) == ("identity", "127.0.0.1")
    assert (asked.one("x-forwarded-proto"), asked.one("x-kuiperbelt-endpoint")) == ("http", ENDPOINT)
    assert uuid.UUID(asked.one("x-kuiperbelt-connection"))
    named = b",".join(line.partition(b":")[2] for line in lines if line.lower().startswith(b"connection:"))
    assert not asked.names & {token.strip().lower().decode("latin-1") for token in named.split(b",")}, asked


def check_query(query: str) -> None:
    """However a backend reads it, what is configured is there once, and first."""
    assert query.isascii()
    assert query.isprintable()
    assert " " not in query
    for separators in ("&", "[&;]"):
        found = [part.partition("=") for part in re.split(separators, query)]
        pairs = [(name, value) for name, _, value in found]
        assert pairs[: len(CONFIGURED)] == CONFIGURED, query
        others = {as_read(name) for name, _ in pairs[len(CONFIGURED) :]}
        assert not others & {name for name, _ in CONFIGURED}, query


def as_read(name: str) -> str:
    """As PHP and Rack read a parameter's name."""
    name = unquote_plus(name).split("\0")[0].lstrip(" ").lstrip("[]")
    opened = re.match(r"([^\[\]]+)(\[.*\]|\]+$|\[$)", name, re.DOTALL)
    return re.sub(r"[ .\[]", "_", opened[1] if opened else name)


# Frames

code = st.integers(0, 0xFFFF) | st.sampled_from([1000, 1001, 1005, 1006, 1015, 3000, 4999])
payload = st.binary(max_size=130) | st.text(max_size=30).map(str.encode) | st.just(b"x" * 3000)
frame = st.builds(masked, st.sampled_from([0, 1, 2, 8, 9, 10]) | st.integers(0, 15), payload, st.booleans())
closing = st.builds(lambda code, reason: masked(CLOSE, struct.pack("!H", code) + reason), code, st.binary(max_size=130))
head = st.builds(
    lambda first, second, length: bytes([first, second]) + length,
    st.integers(0, 255),
    st.integers(0, 255),
    st.binary(max_size=12),
)
chunk = st.one_of(frame, frame, frame, closing, head, st.binary(max_size=20))
ENDS = ("fin", "reset", "close")


@pytest.mark.parametrize("kind", ALONE)
@examples(150)
@given(st.lists(chunk, max_size=8), st.lists(st.integers(0, 400), max_size=4), st.sampled_from(ENDS))
def test_every_connection_ends_once(world: Clients, kind: str, chunks: list[bytes], cuts: list[int], end: str) -> None:
    """Whatever comes after the handshake: the server hangs up, and the backend is told so, once."""
    key = f"{kind}{next(world.numbers)}"
    raw = b"".join(chunks)
    pieces = [raw[start:stop] for start, stop in itertools.pairwise([0, *sorted(cuts), len(raw)])]
    world.do(connection(world.plain[kind], key, pieces, end))
    world.do(world.backend.wait("/close", key, 1, LIMIT))


def test_no_end_was_told_twice(world: Clients) -> None:
    """Of all those above."""
    keys = [asked.key for asked in world.backend.requests if asked.path == "/close"]
    assert len(keys) == len(set(keys))


async def connection(server: Server, key: str, pieces: Sequence[bytes], end: str) -> None:
    """Send this as session `key`, end it in one of three ways, and look at what the server says up to its end."""
    async with RawWebSocket.open(server) as client:
        assert (await client.handshake(f"/connect?key={key}")).status == 101
        for piece in pieces:
            await client.write(piece)
            await asyncio.sleep(0)
        if end == "reset":
            reset(client.writer)
            return
        if end == "close":
            await client.write(masked(CLOSE, struct.pack("!H", 1000)))
        with contextlib.suppress(OSError):  # the server has hung up already
            client.writer.write_eof()
        check_frames(await client.ended(LIMIT))


def check_frames(said: bytes) -> None:
    """Whole and unmasked frames, of which at most the last is a Close, with a code that may be sent."""
    while said:
        opcode, size, start = said[0], said[1], 2
        assert opcode in (0x81, 0x82, 0x88, 0x89, 0x8A), said
        if size == 126:
            (size,), start = struct.unpack("!H", said[2:4]), 4
        assert len(said) >= start + size, said
        payload, said = said[start : start + size], said[start + size :]
        if opcode == 0x88:
            assert not said
            (code,) = struct.unpack("!H", payload[:2]) if payload else (1005,)
            assert not payload or 1000 <= code < 5000, payload
            assert not payload or code not in (1004, 1005, 1006, 1015), payload
            payload[2:].decode()
