"""`sendmessage` to sessions of running proxies, with and without Redis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.certificates import Certificate
from tests.clients import client, receive
from tests.operators import manage, registered
from tests.servers import Server, Servers

NOT_FOUND = "kuiperbelt: session is not found"


@pytest.fixture(params=["uvicorn", "daphne", "cluster"])
async def server(request: pytest.FixtureRequest, servers: Servers) -> Server:
    return await servers.get(request.param)


async def test_text(server: Server, fresh: Callable[[str], str]) -> None:
    """To several sessions; each that isn't there is a line, and counts."""
    one, two = fresh("m"), fresh("m")
    async with client(server, one) as first, client(server, two) as second:
        await registered(server, one, two)
        done = await manage("sendmessage", one, two, one, "snow ☃", env=server.env)
        assert (done.status, done.output, done.errors) == (0, "sent to 2 of 2 sessions\n", "")
        assert await receive(first) == await receive(second) == "snow ☃"
        done = await manage("sendmessage", one, "nobody", "nobody2", "again", env=server.env)
        assert (done.status, done.output) == (2, "sent to 1 of 3 sessions\n")
        assert sorted(done.errors.splitlines()) == [f"nobody2: {NOT_FOUND}", f"nobody: {NOT_FOUND}"]
        assert await receive(first) == "again"


async def test_files_and_stdin(server: Server, key: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff\x00binary")
    async with client(server, key) as connection:
        await registered(server, key)
        for arguments in (["--file", str(tmp_path / "file")], ["--file", "-"], ["-"]):
            done = await manage("sendmessage", key, "--binary", *arguments, env=server.env, stdin=b"\xff\x00binary")
            assert done.status == 0
            assert await receive(connection) == b"\xff\x00binary"
        done = await manage("sendmessage", key, "--file", "-", env=server.env, stdin=b"- text")
        assert await receive(connection) == "- text"


async def test_what_cannot_be_sent(servers: Servers, tmp_path: Path) -> None:
    env = {"EKBO_MAX_BODY_SIZE": "10"} | servers.database_env("unused")
    cases: list[tuple[list[str | bytes], bytes, str]] = [
        (["bob"], b"", "found only one word"),
        (["bo,b", "x"], b"", "KEY: expected 1-256 visible ASCII characters without comma, found 'bo,b'"),
        (["bob", "x" * 11], b"", "expected a message of at most 10 bytes (EKBO_MAX_BODY_SIZE), found 11"),
        (["bob", "-"], b"\xff", "expected text in UTF-8, found other bytes at 0; --binary sends a binary frame"),
        (["bob", b"\xff"], b"", "expected text in UTF-8"),
        (["bob", "--file", str(tmp_path / "none")], b"", "expected a readable file, found: No such file or directory"),
    ]
    for arguments, stdin, expected in cases:
        done = await manage("sendmessage", *arguments, env=env, stdin=stdin)
        assert done.status == 1
        assert expected in done.errors


async def test_strict_broadcast_is_for_backends(servers: Servers, key: str) -> None:
    for kind in ("uvicorn", "cluster"):
        server = await servers.get(kind, {"EKBO_STRICT_BROADCAST_MODE_SWITCH": "true"})
        async with client(server, key) as connection:
            await registered(server, key)
            done = await manage("sendmessage", "nobody", key, "hello", env=server.env)
            assert (done.status, done.errors) == (1, f"nobody: {NOT_FOUND}\n")
            assert await receive(connection) == "hello"


async def test_a_node_that_serves_tls(servers: Servers, key: str, tmp_path: Path) -> None:
    """It is known by its certificate; to another one nothing is said."""
    certificate = Certificate(tmp_path)
    server = await servers.start("uvicorn", certificate.env)
    async with client(server, key) as connection:
        await registered(server, key)
        done = await manage("sendmessage", key, "safe", env=server.env)
        assert (done.status, done.output) == (0, "sent to 1 of 1 session\n")
        assert await receive(connection) == "safe"
        certificate.renew()
        done = await manage("sendmessage", key, "unsafe", env=server.env)
        assert done.status == 1
        assert "has another certificate than the one in" in done.errors
        certificate.cert.write_text("no certificate")
        done = await manage("closesessions", key, env=server.env)
        assert done.status == 1
        assert "expected the nodes' certificate, PEM, in" in done.errors
        assert connection.close_code is None
    await server.stop()
