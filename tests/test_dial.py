"""How connections come about: several addresses, IPv6, names that don't exist, certificates, UNIX sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from proxy.dial import Dial, Tcp, Unix, only
from proxy.exceptions import HostUnknown, TlsFailed, Unreachable, WrongCertificate
from proxy.http_client import HttpClient
from tests.servers import free_port

PAST = datetime(2020, 1, 1, tzinfo=UTC)
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers one request with the local address that it came to."""
    await reader.readuntil(b"\r\n\r\n")
    name = writer.get_extra_info("sockname")
    body = str(name[0] if isinstance(name, tuple) else name).encode()
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    writer.close()


@asynccontextmanager
async def serving(host: str = "127.0.0.1", **how: Any) -> AsyncIterator[int]:
    async with await asyncio.start_server(hello, host, 0, **how) as server:
        yield server.sockets[0].getsockname()[1]


async def body(dial: Dial) -> str:
    client = HttpClient(dial)
    try:
        return (await client.exchange(REQUEST, 100, 5.0)).body.decode()
    finally:
        await client.shut_down()


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Names that this machine's resolver shall know; returns the list of those that it was asked for."""

    def with_names(**names: list[str]) -> list[str]:
        asked: list[str] = []
        real = socket.getaddrinfo

        def getaddrinfo(host: Any, port: Any, *rest: Any, **more: Any) -> list[Any]:
            name = host.decode() if isinstance(host, bytes) else host
            if name not in names:
                return real(host, port, *rest, **more)
            asked.append(name)
            return [found for address in names[name] for found in real(address, port, *rest, **more)]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return with_names


async def test_an_address_that_does_not_answer_is_passed_over(resolve: Callable[..., list[str]]) -> None:
    """127.0.0.2 refuses; the next one is tried, and the host's name is looked up once."""
    asked = resolve(backend=["127.0.0.2", "127.0.0.1"])
    async with serving() as port:
        dial = Tcp("backend.", port)
        assert await asyncio.gather(*(body(dial) for _ in range(3))) == ["127.0.0.1"] * 3
        assert await body(dial) == "127.0.0.1"
    assert asked == ["backend"]


async def test_each_address_gets_its_share(resolve: Callable[..., list[str]]) -> None:
    resolve(backend=["127.0.0.1", "127.0.0.2", "127.0.0.3"])
    async with serving("0.0.0.0") as port:
        dial = Tcp("backend", port)
        found = [await body(dial) for _ in range(6)]
    assert sorted(found) == sorted(["127.0.0.1", "127.0.0.2", "127.0.0.3"] * 2)


async def test_an_address_that_hangs_holds_nobody_up(resolve: Callable[..., list[str]]) -> None:
    """Its queue is full: a connection to it would wait for minutes."""
    with socket.create_server(("127.0.0.2", 0), backlog=0) as full, socket.socket() as first, socket.socket() as second:
        for one in (first, second):
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        resolve(backend=["127.0.0.2", "127.0.0.1"])
        async with await asyncio.start_server(hello, "127.0.0.1", full.getsockname()[1]):
            async with asyncio.timeout(2.0):
                assert await body(Tcp("backend", full.getsockname()[1])) == "127.0.0.1"


async def test_ipv6() -> None:
    async with serving("::1") as port:
        assert await body(Tcp("::1", port)) == "::1"


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "x.sock")
    async with await asyncio.start_unix_server(hello, path):
        assert await body(Unix(path)) == path
    with pytest.raises(Unreachable, match="No such file"):
        await body(Unix(str(tmp_path / "y.sock")))


async def test_nobody_there() -> None:
    with pytest.raises(Unreachable, match=r"^Connection refused$"):
        await body(Tcp("127.0.0.1", free_port()))
    for name in ("no-such-host.invalid", "x" * 70 + ".invalid", ".."):
        with pytest.raises(HostUnknown, match="no host"):
            await body(Tcp(name, 80))


class TestTls:
    @pytest.fixture
    def authority(self) -> trustme.CA:
        return trustme.CA()

    def server(self, authority: trustme.CA, name: str) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(name).configure_cert(context)
        return context

    def client(self, authority: trustme.CA) -> ssl.SSLContext:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context

    async def test_the_name_is_sent_and_compared(
        self, authority: trustme.CA, resolve: Callable[..., list[str]]
    ) -> None:
        resolve(**{"backend.example": ["127.0.0.1"], "other.example": ["127.0.0.1"]})
        context = self.server(authority, "backend.example")
        names: list[str | None] = []
        context.sni_callback = lambda _, name, __: names.append(name)
        async with serving(ssl=context) as port:
            assert await body(Tcp("backend.example.", port, self.client(authority))) == "127.0.0.1"
            with pytest.raises(TlsFailed, match="isn't believed, Hostname mismatch"):
                await body(Tcp("other.example", port, self.client(authority)))
        assert names == ["backend.example", "other.example"]

    async def test_by_one_certificate(self, authority: trustme.CA) -> None:
        """Whatever its name, its dates and its authority; another one of the same name and authority isn't believed."""
        made = [authority.issue_cert("elsewhere.example", not_after=PAST, not_before=PAST) for _ in range(2)]
        one, other = (ssl.PEM_cert_to_DER_cert(each.cert_chain_pems[0].bytes().decode()) for each in made)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        made[0].configure_cert(context)
        async with serving(ssl=context) as port:
            assert await body(Tcp("127.0.0.1", port, only(one))) == "127.0.0.1"
            with pytest.raises(WrongCertificate):
                await body(Tcp("127.0.0.1", port, only(other)))

    async def test_who_speaks_none(self, authority: trustme.CA) -> None:
        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
            with pytest.raises(TlsFailed, match="WRONG_VERSION_NUMBER"):
                await body(Tcp("127.0.0.1", server.sockets[0].getsockname()[1], self.client(authority)))
