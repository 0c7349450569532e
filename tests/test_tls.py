"""TLS served by the proxy itself: real certificates, real wss clients."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from proxy import reload, tls
from tests.backend import Backend
from tests.certificates import Certificate
from tests.clients import RawWebSocket, client, ending, receive, request, send
from tests.servers import Server, Servers, free_port
from tests.test_runproxy import runproxy

pytestmark = pytest.mark.usefixtures("clean_logs")

SIZE = 256 * 1024  # bytes of a large frame


@pytest.fixture(scope="module")
async def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
async def server(servers: Servers, certificate: Certificate) -> AsyncIterator[Server]:
    limits = {"EKBO_BLOCKED_TIMEOUT": "1s", "EKBO_MAX_BACKLOG_SIZE": "100000000"}
    server = await servers.start("uvicorn", certificate.env | limits)
    silent = asyncio.create_task(until_dropped(server))
    yield server
    assert tls.HANDSHAKE_LIMIT - 1 < await silent < tls.HANDSHAKE_LIMIT + 20
    await server.stop()


async def until_dropped(server: Server) -> float:
    """Seconds until a client that never begins its handshake is dropped."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    assert await reader.read() == b""
    writer.close()
    return time.monotonic() - began


async def test_a_wss_client(server: Server, backend: Backend, key: str) -> None:
    async with client(server, key) as connection:
        (asked,) = backend.seen("/connect", key)
        assert asked.one("X-Forwarded-Proto") == "https"
        large = b"x" * SIZE
        assert (await send(server, key, large, ("Content-Type", "application/octet-stream"))).status == 200
        assert await receive(connection) == large
        await connection.send("y" * 60_000)
        (heard,) = await backend.wait("/receive", key)
        assert heard.body == b"y" * 60_000
        assert (await request(server, "POST", "/close", [("X-Kuiperbelt-Session", key)], b"bye")).status == 200
        end = await ending(connection)
        assert (end.code, end.frames) == (1000, ["bye"])


async def test_a_client_that_does_not_read_is_dropped(server: Server, backend: Backend, key: str) -> None:
    """Back-pressure and abort reach through TLS."""
    async with RawWebSocket.connected(server, key, receive_buffer=SIZE):
        for _ in range(400):
            if b"errors" in (await send(server, key, b"x" * SIZE)).body:
                break
        else:
            pytest.fail("everything was taken for a client that does not read")
        (event,) = await backend.wait("/close", key, timeout=12)
        assert event.one("X-Kuiperbelt-Close-Reason") == "slow"


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_versions(server: Server, version: str) -> None:
    context = server.tls
    assert context
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    _, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
    assert writer.get_extra_info("ssl_object").version() == version.replace("_", ".")
    writer.close()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
async def test_an_old_version_is_refused(server: Server) -> None:
    context = server.tls
    assert context
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # or the client would refuse by itself
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        await asyncio.open_connection("127.0.0.1", server.port, ssl=context)


def test_no_version_before_1_2_whatever_openssl_is_set_to(tmp_path: Path) -> None:
    """Most builds refuse older ones by their security level, so that the test above would pass on them anyway."""
    certificate = Certificate(tmp_path)
    loaded = tls._load(str(certificate.cert), str(certificate.key))
    assert loaded.minimum_version is ssl.TLSVersion.TLSv1_2


async def test_who_speaks_no_tls_is_dropped(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
    assert not (await reader.read()).startswith(b"HTTP")
    writer.close()
    assert (await request(server, "GET", "/ping")).status == 200


async def test_a_renewed_certificate_is_taken_at_sighup(servers: Servers, tmp_path: Path, key: str) -> None:
    """And one that can't be used isn't; connections stay."""
    certificate = Certificate(tmp_path)
    server = await servers.start("uvicorn", certificate.env)
    async with client(server, key) as connection:
        certificate.renew()
        assert not await asyncio.to_thread(certificate.served_at, server.port)
        await hang_up(server, "certificate: read anew", 1)
        assert await asyncio.to_thread(certificate.served_at, server.port)
        cert, key_file = certificate.cert.read_text(), certificate.key.read_text()
        certificate.key.write_text(trustme.CA().issue_cert("127.0.0.1").private_key_pem.bytes().decode())
        await hang_up(server, "certificate: not read anew, what was in use stays: expected a certificate", 1)
        certificate.cert.write_text("nonsense")
        await hang_up(server, "certificate: not read anew", 2)
        certificate.cert.write_text(cert)
        assert await asyncio.to_thread(certificate.served_at, server.port)
        assert (await send(server, key)).status == 200
        assert await receive(connection) == "hello"
        certificate.key.write_text(key_file)
    await server.stop()


def test_files_that_change_while_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever halves a reload finds, what is served is a whole pair."""
    monkeypatch.setattr(reload, "_sources", {})
    certificate = Certificate(tmp_path)
    authority = trustme.CA()
    pairs = [authority.issue_cert("127.0.0.1") for _ in range(2)]
    certificate.write(pairs[0])
    context = tls.server_context(str(certificate.cert), str(certificate.key))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    done = threading.Event()

    def renew_again_and_again() -> None:
        for number in itertools.count():
            if done.is_set():
                return
            certificate.write(pairs[number % 2])

    writer = threading.Thread(target=renew_again_and_again)
    writer.start()
    try:
        refused = 0
        for _ in range(300):
            try:
                reload._sources["certificate"]()
            except (OSError, ValueError):
                refused += 1
            shake_hands(context, trusting)
    finally:
        done.set()
        writer.join()
    assert 0 < refused < 300


def shake_hands(context: ssl.SSLContext, trusting: ssl.SSLContext) -> None:
    """A whole handshake in memory. Raises SSLError."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(there, back, server_side=True)
    client = trusting.wrap_bio(back, there, server_hostname="127.0.0.1")
    for side in (client, server, client, server):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    assert client.version() == server.version() == "TLSv1.3"


async def test_a_client_can_not_renegotiate(server: Server) -> None:
    """Under TLS 1.2, where that is cheap for a client and dear for a server."""
    process = await asyncio.create_subprocess_exec(
        "openssl", "s_client", "-tls1_2", "-legacy_renegotiation", "-connect", f"127.0.0.1:{server.port}",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdin
    process.stdin.write(b"R\n")
    output, _ = await asyncio.wait_for(process.communicate(), 10)
    assert b"RENEGOTIATING" in output
    assert b"no renegotiation" in output


async def test_workers_and_a_plain_api_listener(servers: Servers, tmp_path: Path, key: str) -> None:
    certificate = Certificate(tmp_path)
    env = servers.cluster_env() | certificate.env | {"EKBO_API_PORT": str(free_port())}
    server = await servers.start("workers", env)
    async with client(server, key) as connection:
        assert (await send(server, key)).status == 200
        assert await receive(connection) == "hello"
    certificate.renew()
    server.process.send_signal(signal.SIGHUP)

    async def all_renewed() -> bool:
        return all([await asyncio.to_thread(certificate.served_at, server.port) for _ in range(20)])

    deadline = time.monotonic() + 20
    while not await all_renewed():
        assert time.monotonic() < deadline, "not all workers took the new certificate"
    assert await server.stop() == 0


async def hang_up(server: Server, said: str, times: int) -> None:
    """SIGHUP, and wait until the log says so as many times."""
    server.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 10
    while server.output().count(said) < times:
        assert time.monotonic() < deadline, f"waited in vain for {said!r}"
        await asyncio.sleep(0.02)


def test_files_that_can_not_be_used_are_named(tmp_path: Path) -> None:
    certificate = Certificate(tmp_path)
    locked = tmp_path / "locked.pem"
    lock = ("openssl", "pkey", "-aes128", "-passout", "pass:x", "-in", str(certificate.key), "-out", str(locked))
    subprocess.run(lock, check=True, capture_output=True)
    for cert, key, found in (
        (certificate.cert, locked, ""),
        (certificate.key, certificate.key, ""),
        (tmp_path / "nothing", certificate.key, "No such file"),
    ):
        process = runproxy(f"--tls-cert={cert}", f"--tls-key={key}", EKBO_HOST="127.0.0.1", EKBO_PORT="0")
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 1
        last = errors.splitlines()[-1]
        assert last.startswith(f"CommandError: can't serve TLS: expected a certificate chain in {cert} and its private")
        assert found in last


def test_one_file_of_two_is_refused() -> None:
    process = runproxy("--tls-cert=cert.pem", EKBO_HOST="127.0.0.1", EKBO_PORT="0")
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("CommandError: expected --tls-cert and --tls-key")


def test_the_command_line_s_certificate(tmp_path: Path) -> None:
    certificate = Certificate(tmp_path)
    process = runproxy(
        f"--tls-cert={certificate.cert}", f"--tls-key={certificate.key}", EKBO_HOST="127.0.0.1", EKBO_PORT="0"
    )
    assert process.stderr
    port = int(process.stderr.readline().split()[-1])
    assert certificate.served_at(port)
    process.send_signal(signal.SIGHUP)
    assert "restart" not in process.stderr.readline()
    process.terminate()
    process.communicate(timeout=20)
