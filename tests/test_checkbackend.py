"""`checkbackend` against a real backend: what it sends, and what it says to each thing that goes wrong."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from tests.backend import Answer, Backend, welcome
from tests.operators import Done, manage
from tests.servers import free_port

NAMES = ("connect", "establish", "receive", "close")


def env(backend: Backend, **more: str) -> dict[str, str]:
    urls = {f"EKBO_{name.upper()}_CALLBACK_URL": f"http://127.0.0.1:{backend.port}/check/{name}" for name in NAMES}
    return urls | {"EKBO_CALLBACK_TIMEOUT": "1s"} | more


async def check(backend: Backend, *arguments: str, **more: str) -> Done:
    return await manage("checkbackend", *arguments, env=env(backend, **more))


async def test_all_is_well(backend: Backend, key: str) -> None:
    """All four callbacks, as the proxy sends them, for one session."""
    backend.on("/check/connect", key, welcome(key, b"hello"))
    client = ["--query", f"key={key}&a=%20b", "--header", "Cookie: c=d", "--header", "X-Kuiperbelt-Endpoint: evil"]
    done = await check(backend, *client, EKBO_PROXY_SET_HEADER="{X-Ours: yes}", EKBO_SELF_ENDPOINT_URL="here:1")
    assert done.status == 0
    assert [line.split()[:2] for line in done.lines if not line.startswith(" ")] == [[name, "ok"] for name in NAMES]
    assert f"lets the client in as {key}, with a first frame of 5 bytes" in done.output
    (connect,) = backend.seen("/check/connect", key)
    assert (connect.method, connect.query, connect.one("Cookie")) == ("GET", f"key={key}&a=%20b", "c=d")
    (establish,) = backend.seen("/check/establish", key)
    (receive,) = backend.seen("/check/receive", key)
    (close,) = backend.seen("/check/close", key)
    assert (receive.body, receive.one("Content-Type")) == (b"kuiperbelt-check", "text/plain")
    assert (close.one("X-Kuiperbelt-Close-Code"), close.one("X-Kuiperbelt-Close-Reason")) == ("1000", "client")
    connections = {request.one("X-Kuiperbelt-Connection") for request in (connect, establish, receive, close)}
    assert len(connections) == 1
    for request in (connect, establish, receive, close):
        assert (request.one("X-Ours"), request.one("X-Kuiperbelt-Endpoint")) == ("yes", "here:1")


async def test_without_credentials(backend: Backend) -> None:
    """A backend that doesn't know the client; the others are asked about a key that says who asks."""
    backend.on("/check/connect", "", Answer(status=401))
    done = await check(backend, "--json", EKBO_RECEIVE_CALLBACK_URL="")
    assert done.status == 1
    found = {record["callback"]: record for record in map(json.loads, done.lines)}
    assert [found[name]["ok"] for name in NAMES] == [False, True, None, True]
    assert "--query and --header can say who it is" in found["connect"]["text"]
    (request,) = backend.seen("/check/connect", "")
    assert request.query == "kuiperbelt-check=1"
    assert len(backend.seen("/check/close", "kuiperbelt-check")) == 1


WRONG = [
    (Answer(status=302, headers=[("Location", "/elsewhere")]), "a redirect, which the proxy doesn't follow"),
    (Answer(status=404), "the backend has nothing at /check/connect"),
    (Answer(status=500), "its own log says why"),
    (Answer(status=200), "expected one session key in X-Kuiperbelt-Session, found 0 of them"),
    (Answer(headers=[("X-Kuiperbelt-Session", "a b")]), "found a malformed one"),
    (Answer(delay=3.0), "no whole answer within 1 s (callback.timeout)"),
    (Answer(hang_up=True), "hung up without an answer"),
    (Answer(raw=b"SSH-2.0-OpenSSH_9\r\n"), "isn't HTTP"),
    (
        Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nX-Kuiperbelt-Session: a\r\n\r\nhalf"),
        "in the middle of its answer",
    ),
]


@pytest.mark.parametrize(("answer", "expected"), WRONG, ids=[expected for _, expected in WRONG])
async def test_what_is_wrong(backend: Backend, key: str, answer: Answer, expected: str) -> None:
    backend.on("/check/connect", key, answer)
    done = await check(backend, "connect", "--query", f"key={key}")
    assert done.status == 1
    assert expected in done.output


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:{closed}/x?token=secret", "nobody answers at 127.0.0.1:{closed} (Connection refused)"),
        ("http://no-such-host.invalid/x", "there is no host no-such-host.invalid"),
    ],
)
async def test_nobody_there(backend: Backend, url: str, expected: str) -> None:
    ports = {"closed": str(free_port())}
    done = await check(backend, "connect", EKBO_CONNECT_CALLBACK_URL=url.format(**ports))
    assert done.status == 1
    assert expected.format(**ports) in done.output
    assert "secret" not in done.output


async def test_a_backend_without_tls(backend: Backend) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
        done = await check(backend, "connect", EKBO_CONNECT_CALLBACK_URL=url)
    assert "doesn't speak TLS, or has a certificate that this machine doesn't trust" in done.output


async def test_a_backend_that_listens_and_never_accepts(backend: Backend) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        done = await check(backend, "connect", EKBO_CONNECT_CALLBACK_URL=url)
    assert "no whole answer within 1 s" in done.output


async def test_wrong_arguments(backend: Backend) -> None:
    cases = (["conect"], ["--header", "nonsense"], ["--header", "a: b\r\nc: d"], ["--query", "a b"], ["--query", "a=ü"])
    unknown, header, *others = await asyncio.gather(*(check(backend, *arguments) for arguments in cases))
    for done, expected in zip(others, ("NAME:VALUE", "percent-encoded", "percent-encoded"), strict=True):
        assert (done.status, expected in done.errors) == (2, True)
    assert "CALLBACK: expected connect, establish, receive, close, found conect" in unknown.errors
    assert "expected NAME:VALUE in visible ASCII, found 'nonsense'" in header.errors
    done = await check(backend, EKBO_CONNECT_CALLBACK_URL="")
    assert "expected the backend's auth URL, found nothing" in done.errors
