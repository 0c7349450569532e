"""What clients may take: the rules by themselves, then over real servers. What is over, the backend doesn't hear of."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from proxy.conf import Options
from proxy.exceptions import ConnectRefused
from proxy.limits import RETRY_WITHIN, Connections, Pace, Place
from tests.backend import Answer, Backend, reset
from tests.clients import (
    PING,
    TEXT,
    Http,
    RawWebSocket,
    Response,
    client,
    hung_up,
    masked,
    receive,
    request,
    send,
)
from tests.evidence import Evidence, Figures
from tests.servers import ALONE, Server, Servers
from tests.vectors import each_of

pytestmark = pytest.mark.usefixtures("clean_logs")
kind = each_of(ALONE)

TOTAL, OF_ONE, MESSAGES = 6, 2, 20
LIMITED = {
    "EKBO_MAX_CONNECTIONS": str(TOTAL),
    "EKBO_MAX_CONNECTIONS_PER_ADDRESS": str(OF_ONE),
    "EKBO_MESSAGE_RATE": str(MESSAGES),
    "EKBO_TRUSTED_PROXIES": "127.0.0.1",
    "EKBO_CALLBACK_TIMEOUT": "1s",
}
HANDSHAKES = 5  # a second
PACED = {"EKBO_CONNECT_RATE": str(HANDSHAKES)}


# The rules


def test_a_pace_has_a_second_s_worth_at_once_and_fills_evenly() -> None:
    pace = Pace(4)
    assert [pace.allows(100.0) for _ in range(6)] == [True] * 4 + [False] * 2
    assert [pace.allows(100.26) for _ in range(2)] == [True, False]
    assert not pace.allows(100.49)
    assert pace.allows(100.51)
    assert [pace.allows(200.0) for _ in range(5)] == [True] * 4 + [False]  # what wasn't used isn't saved up


def test_a_steady_client_keeps_below_its_pace() -> None:
    pace = Pace(10)
    assert all(pace.allows(50 + number / 9.9) for number in range(1000))
    assert sum(pace.allows(500 + number / 20) for number in range(1000)) == pytest.approx(500 + 10, abs=6)


def test_no_pace() -> None:
    assert all(map(Pace(0).allows, [1.0] * 1000))


def taken(whole: Connections, options: Options, *addresses: str) -> list[Place]:
    places = []
    for address in addresses:
        place = Place(whole)
        place.take(address, options)
        places.append(place)
    return places


def refused(whole: Connections, options: Options, address: str) -> ConnectRefused:
    with pytest.raises(ConnectRefused) as refusal, Place(whole) as place:
        place.take(address, options)
    assert refusal.value.status == 503
    (seconds,) = [value for name, value in refusal.value.headers if name == b"retry-after"]
    assert 1 <= int(seconds) <= RETRY_WITHIN
    return refusal.value


def test_nothing_is_limited_by_default() -> None:
    whole = Connections()
    places = taken(whole, Options(), *["192.0.2.1"] * 1000)
    assert (whole.total, whole.by_address) == (1000, {})
    for place in places:
        place.free()
    assert whole.total == 0


def test_in_total() -> None:
    whole, options = Connections(), Options(max_connections=2)
    first, _ = taken(whole, options, "192.0.2.1", "")
    assert b"(max_connections)" in refused(whole, options, "192.0.2.9").body
    first.free()
    first.free()
    assert whole.total == 1
    taken(whole, options, "192.0.2.9")
    refused(whole, options, "192.0.2.9")


def test_of_one_address() -> None:
    whole, options = Connections(), Options(max_connections_per_address=2)
    places = taken(whole, options, "192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2")
    assert b"(max_connections_per_address)" in refused(whole, options, "192.0.2.1").body
    taken(whole, options, *[""] * 5)  # clients of a UNIX socket
    places += taken(whole, options, "2001:db8::1", "2001:db8:0:0:ffff::2%eth0")  # one client's network, many addresses
    refused(whole, options, "2001:db8::3")
    places += taken(whole, options, "2001:db8:0:1::1", "not:an address", "unknown")
    places.pop(0).free()
    places += taken(whole, options, "192.0.2.1")
    for place in places:
        place.free()
    assert whole.by_address == {}
    assert whole.total == 5


def test_a_place_outlives_a_change_of_options() -> None:
    """Options are overridden in tests only, but what was counted must be what is freed."""
    whole = Connections()
    (place,) = taken(whole, Options(), "192.0.2.1")
    (other,) = taken(whole, Options(max_connections_per_address=1), "192.0.2.1")
    place.free()
    assert whole.by_address == {"192.0.2.1": 1}
    other.free()
    assert (whole.total, whole.by_address) == (0, {})


def test_handshakes_a_second() -> None:
    whole, options = Connections(), Options(connect_rate=3)
    taken(whole, options, *["192.0.2.1"] * 3)
    assert b"(connect_rate)" in refused(whole, options, "192.0.2.2").body
    assert whole.total == 3


def test_a_place_is_free_after_any_end() -> None:
    whole = Connections()

    def failing() -> None:
        with Place(whole) as place:
            place.take("192.0.2.1", Options(max_connections_per_address=1))
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        failing()
    assert (whole.total, whole.by_address) == (0, {})


# Over real servers


def over(answer: Response, kind: str) -> None:
    """Refused because of a limit; daphne can't say more than 403."""
    if kind == "daphne":
        assert answer.status == 403
    else:
        assert answer.status == 503
        assert 1 <= int(answer.one("Retry-After") or 0) <= RETRY_WITHIN


async def handshake(server: Server, key: str, address: str) -> Response:
    """A handshake that gets no session, or one that ends at once."""
    async with RawWebSocket.open(server) as socket:
        return await socket.handshake(f"/connect?key={key}", [("X-Forwarded-For", address)])


@contextlib.asynccontextmanager
async def connected(server: Server, *visitors: tuple[str, str]) -> AsyncIterator[list[RawWebSocket]]:
    """Clients by key and address. One that has just gone may still be counted, so each tries for a while."""
    async with contextlib.AsyncExitStack() as stack:
        sockets = []
        for key, address in visitors:
            async with asyncio.timeout(10):
                while True:
                    socket = await stack.enter_async_context(RawWebSocket.open(server))
                    answer = await socket.handshake(f"/connect?key={key}", [("X-Forwarded-For", address)])
                    if answer.status == 101:
                        break
                    await asyncio.sleep(0.05)
            sockets.append(socket)
        yield sockets


def full_house(fresh: Callable[[str], str]) -> list[tuple[str, str]]:
    return [(fresh("limit"), f"198.51.100.{number % 3}") for number in range(TOTAL)]


async def counted(server: Server, name: str) -> int:
    count: int = (await request(server, "GET", "/stats")).json()[name]
    return count


async def test_total_connections(kind: str, servers: Servers, backend: Backend, fresh: Callable[[str], str]) -> None:
    server, key = await servers.get(kind, LIMITED), fresh("late")
    async with connected(server, *full_house(fresh)):
        errors = await counted(server, "connect_errors")
        over(await handshake(server, key, "198.51.100.99"), kind)
        assert await counted(server, "connect_errors") == errors + 1
        assert not backend.seen("/connect", key)
    async with connected(server, (key, "198.51.100.99")):
        pass


async def test_connections_of_one_address(
    kind: str, servers: Servers, backend: Backend, fresh: Callable[[str], str]
) -> None:
    """The address is what the trusted proxy saw, whatever the client wrote before it."""
    server, key = await servers.get(kind, LIMITED), fresh("late")
    async with connected(server, *[(fresh("limit"), "203.0.113.1") for _ in range(OF_ONE)]) as (one, _):
        over(await handshake(server, key, "198.51.100.7, 203.0.113.1"), kind)
        assert not backend.seen("/connect", key)
        async with connected(server, (fresh("limit"), "203.0.113.2")):
            reset(one.writer)
            async with connected(server, (key, "203.0.113.1")):
                pass


async def test_a_place_comes_back_whatever_happens(
    kind: str, servers: Servers, backend: Backend, fresh: Callable[[str], str]
) -> None:
    """After refusals, time-outs, failures, resets in the handshake and in a session, the house can be filled."""
    server = await servers.get(kind, LIMITED)
    denied, hanging, gone = (fresh(name) for name in ("denied", "hanging", "gone"))
    backend.on("/connect", denied, Answer(status=401))
    backend.on("/connect", hanging, Answer(delay=3))
    for number in range(TOTAL):
        assert (await handshake(server, denied, f"192.0.2.{number}")).status in (401, 403)
    assert (await handshake(server, hanging, "192.0.2.1")).status in (502, 403)
    for end in ("failing", "reset") * OF_ONE:
        key = fresh(end)
        if end == "failing":
            backend.on("/establish", key, Answer(status=500))
        async with connected(server, (key, "192.0.2.2")) as (socket,):
            if end == "failing":
                assert await socket.closed() == (1011 if kind == "uvicorn" else 4011)
            else:
                reset(socket.writer)
    async with RawWebSocket.open(server) as socket:
        await socket.write(socket.encode("GET", f"/connect?key={gone}"))
        reset(socket.writer)
    async with connected(server, *full_house(fresh)):
        pass


async def test_connections_without_a_session(servers: Servers, fresh: Callable[[str], str]) -> None:
    """The oldest that the server waits for makes room: who asks is answered, and who has a session isn't counted."""
    most, silent = 20, 200
    server, key = await servers.get("uvicorn", {"EKBO_MAX_HTTP_CONNECTIONS": str(most)}), fresh("open")
    async with client(server, key) as session, Http.open(server) as backends, contextlib.AsyncExitStack() as stack:
        readers = []
        for number in range(silent):
            reader, writer = await server.open()
            stack.callback(writer.close)
            readers.append(reader)
            if number % 5 == 0:  # a push on a kept connection, more than once a second
                assert (await backends.request("POST", "/send", [("X-Kuiperbelt-Session", key)], b"x")).status == 200
                assert await session.recv() == "x"
        async with client(server, fresh("late")):
            pass
        for reader in readers[: silent + 1 - most]:  # what is kept: that of the pushes, and the newest ones
            assert await hung_up(reader) < 2
        assert not readers[-1].at_eof()
        stats = (await request(server, "GET", "/stats?format=full")).json()
        assert silent - most < stats["http_connections_dropped"] <= silent + 10


async def test_a_storm_of_handshakes(
    kind: str, servers: Servers, backend: Backend, fresh: Callable[[str], str], evidence: Evidence
) -> None:
    """Over the rate the backend isn't asked; sessions that are open get their pushes; later handshakes get in."""
    server, key = await servers.get(kind, PACED), fresh("open")
    keys = [fresh("storm") for _ in range(60)]
    loop = asyncio.get_running_loop()
    async with connected(server, (key, "")) as (socket,):
        began = loop.time()
        answers, pushed = await asyncio.gather(
            asyncio.gather(*(handshake(server, one, "") for one in keys)), send(server, key, b"hello")
        )
        evidence(Figures(1, len(keys) + 1, worst=loop.time() - began))
        admitted = [one for one, answer in zip(keys, answers, strict=True) if answer.status == 101]
        assert pushed.status == 200
        assert await socket.frame() == (TEXT, b"hello")
        assert 0 < len(admitted) <= HANDSHAKES * (1 + loop.time() - began)
        for one, answer in zip(keys, answers, strict=True):
            assert len(backend.seen("/connect", one)) == (one in admitted)
            if one not in admitted:
                over(answer, kind)
        assert len(admitted) < len(keys)
        async with connected(server, (fresh("later"), "")):
            pass


async def test_a_flood_of_messages(kind: str, servers: Servers, backend: Backend, key: str) -> None:
    """A second's worth at once is fine; more is 1008, and what is over it never reaches the backend."""
    server = await servers.get(kind, LIMITED)
    code = 1008 if kind == "uvicorn" else 4008
    async with client(server, key) as quiet:
        for number in range(MESSAGES):
            await quiet.send(str(number))
        await backend.wait("/receive", key, MESSAGES)
        await send(server, key, b"still here")
        assert await receive(quiet) == "still here"
    flooding = f"{key}-flood"
    began = asyncio.get_running_loop().time()
    async with RawWebSocket.connected(server, flooding) as socket:
        await socket.write(masked(TEXT, b"x") * 300)
        assert await socket.closed() == code
    await backend.until(lambda: bool(backend.seen("/close", flooding)), "the end of the flood")
    (end,) = backend.seen("/close", flooding)
    assert end.one("X-Kuiperbelt-Close-Code") == "1008"
    assert end.one("X-Kuiperbelt-Close-Reason") == "error"
    heard = len(backend.seen("/receive", flooding))
    assert 0 < heard <= MESSAGES * (1 + asyncio.get_running_loop().time() - began)


async def test_a_flood_of_pings_counts(servers: Servers, key: str) -> None:
    """daphne answers pings by itself."""
    server = await servers.get("uvicorn", LIMITED)
    async with RawWebSocket.connected(server, key) as socket:
        await socket.write(masked(PING) * 300)
        assert await socket.closed() == 1008
