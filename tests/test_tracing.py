"""The trace context of handshakes: which one is taken, and which callbacks of a real server have it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy import tracing
from tests.backend import Backend, Request
from tests.clients import RawWebSocket, client
from tests.servers import ALONE, Servers

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
STATE = "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"
KINDS = ("connect", "establish", "receive", "close")

pytestmark = pytest.mark.usefixtures("clean_logs")


@pytest.mark.parametrize(
    "parent",
    [PARENT, f"{PARENT[:-2]}00", f"cc{PARENT[2:]}", f"cc{PARENT[2:]}-what-comes-later"],
)
def test_contexts_that_are_taken(parent: str) -> None:
    headers = [(b"traceparent", parent.encode()), (b"tracestate", b"a=1"), (b"tracestate", b"b=2")]
    assert tracing.context_of(headers) == [("traceparent", parent), ("tracestate", "a=1,b=2")]


@pytest.mark.parametrize(
    "parents",
    [
        [],
        [PARENT, PARENT],
        [PARENT.upper()],
        [f"ff{PARENT[2:]}"],
        [f"{PARENT}-more"],
        [PARENT[:-1]],
        [f"00-{'0' * 32}-00f067aa0ba902b7-01"],
        [f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01"],
        [f"{PARENT}\r\nX: y"],
        [f"cc{PARENT[2:]}-{'x' * 300}"],
    ],
)
def test_contexts_that_are_not(parents: list[str]) -> None:
    assert tracing.context_of([(b"traceparent", parent.encode()) for parent in parents]) == []


@pytest.mark.parametrize("state", [b"", b"x" * 513, b"a=\xe9", b"a=\x1b"])
def test_states_that_are_left_out(state: bytes) -> None:
    headers = [(b"traceparent", PARENT.encode()), (b"tracestate", state)]
    assert tracing.context_of(headers) == [("traceparent", PARENT)]


def test_nothing_is_kept_of_a_connection_that_has_ended() -> None:
    tracer = tracing.Tracer()
    with tracer.connection("c", [(b"traceparent", PARENT.encode())]):
        with tracer.callback("close", "c") as traced:
            assert traced.headers == [("traceparent", PARENT)]
        with tracer.callback("close", "another") as traced:
            assert traced.headers == []
    with tracer.callback("close", "c") as traced:
        assert traced.headers == []


async def callbacks(backend: Backend, servers: Servers, kind: str, mode: str, key: str) -> list[Request]:
    """The four callbacks of a connection whose client has sent a trace context."""
    server = await servers.get(kind, {"EKBO_TRACING": mode})
    headers = [("traceparent", PARENT), ("tracestate", STATE)]
    async with RawWebSocket.open(server) as raw:
        assert (await raw.handshake(f"/connect?key={key}", headers)).status == 101
        await raw.write(b"\x81\x85\0\0\0\0hello")
        await backend.wait("/receive", key)
    return [(await backend.wait(f"/{name}", key))[0] for name in KINDS]


@pytest.mark.parametrize("kind", ALONE)
async def test_passed_on_to_all_callbacks(
    servers: Servers, backend: Backend, kind: str, fresh: Callable[[str], str]
) -> None:
    for request in await callbacks(backend, servers, kind, "pass", fresh("t")):
        assert (request.one("traceparent"), request.one("tracestate")) == (PARENT, STATE), request.path
    key = fresh("t")
    async with client(await servers.get(kind, {"EKBO_TRACING": "pass"}), key):
        (request,) = await backend.wait("/establish", key)
    assert "traceparent" not in request.names


async def test_off_the_connect_callback_alone_has_it(
    servers: Servers, backend: Backend, fresh: Callable[[str], str]
) -> None:
    """As it has all headers of the client."""
    first, *others = await callbacks(backend, servers, "uvicorn", "", fresh("t"))
    assert (first.one("traceparent"), first.one("tracestate")) == (PARENT, STATE)
    assert not any({"traceparent", "tracestate"} & request.names for request in others)
