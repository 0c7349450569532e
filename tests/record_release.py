"""Records what a release leaves behind and says, for tests of its successors: `python -m tests.record_release`.

Into tests/recorded: a database of each kind with rows of every table, and what two nodes say to each other over Redis.
Run it once for each release, with a new number, and never again: what is recorded must not change with the code.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sqlite3
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path

FOLDER = Path(__file__).parent / "recorded"
PREFIX = "recorded"
SECRET_KEY = "the-secret-key-of-the-recorded-installation-0123456789"  # of nothing else

NODE = "3f0c7d6e-0000-4000-8000-000000000001"
LIVE, PENDING, GIVEN_UP = (f"3f0c7d6e-0000-4000-8000-00000000001{number}" for number in range(3))
"""Connections: of a process that was killed, of one whose backend didn't hear, of one whose backend never did."""
TOKEN, REVOKED = (f"3f0c7d6e-0000-4000-8000-00000000002{number}" for number in range(2))
FAR = datetime(2126, 1, 1, tzinfo=UTC)
THEN = datetime(2026, 11, 27, tzinfo=UTC)


def fill() -> None:
    """Rows of every table, as a node leaves them that is killed."""
    from django.contrib.auth.models import User

    from proxy.models import Node, Sample, Session, Token

    User.objects.create_superuser("operator", password="recorded-password")  # of nothing else
    node = Node.objects.create(
        id=NODE, name="old.example", pid=7, endpoint="old.example:9180", version="0", started_at=THEN, heartbeat_at=THEN
    )
    Sample.objects.create(node=node, at=THEN, connections=1, total_connections=3, total_messages=5, errors=0)
    common = {"node": node, "address": "127.0.0.1", "user_agent": "agent", "path": "/connect", "connected_at": THEN}
    ended = {"ended_at": THEN, "code": 1006, "reason": "lost", "attempts": 3, "last_error": "expected 200, found 500"}
    Session.objects.create(connection=LIVE, key="recorded-live", endpoint="old.example:9180", **common)
    Session.objects.create(connection=PENDING, key="recorded-pending", endpoint="old.example:9180", **common, **ended)
    Session.objects.create(
        connection=GIVEN_UP, key="recorded-given-up", endpoint="old.example:9180", gave_up=True, **common, **ended
    )
    for token, revoked in ((TOKEN, None), (REVOKED, THEN)):
        Token.objects.create(
            id=token, prefix="recorded-", verbs="send", made_at=THEN, expires_at=FAR, revoked_at=revoked
        )


def tokens() -> dict[str, str]:
    """The push tokens themselves, by their ids."""
    from proxy.tokens import Grant, sign

    return {token: sign(Grant(token, "recorded-", ("send",), int(FAR.timestamp()))) for token in (TOKEN, REVOKED)}


async def record_databases(release: int) -> None:
    from tests.databases import using
    from tests.postgres import PostgresServer, programs

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recorded.sqlite3"

        def sqlite() -> None:
            with using(f"sqlite:///{file}"):
                fill()
            with contextlib.closing(sqlite3.connect(file)) as database:
                (FOLDER / f"{release}.sqlite.sql").write_text("\n".join(database.iterdump()) + "\n")

        await asyncio.to_thread(sqlite)
    async with PostgresServer.running() as server:

        def postgres() -> None:
            with using(server.url):
                fill()
            line = [str(programs() / "pg_dump"), "--inserts", "--no-owner", "--no-privileges", server.url]
            dump = subprocess.run(line, check=True, capture_output=True, text=True).stdout
            plain = [line for line in dump.splitlines() if not line.startswith(("\\", "--"))]  # SQL alone
            (FOLDER / f"{release}.postgresql.sql").write_text("\n".join(plain) + "\n")

        await asyncio.to_thread(postgres)
    (FOLDER / f"{release}.tokens.json").write_text(json.dumps(tokens(), indent=1) + "\n")


async def record_cluster(release: int) -> None:
    from redis.asyncio import Redis

    from tests.backend import Backend
    from tests.clients import client, close, send
    from tests.redis_servers import RedisServer
    from tests.servers import Servers

    backend = Backend()
    await backend.start()
    with tempfile.TemporaryDirectory() as folder:
        async with RedisServer.running() as redis:
            servers = Servers(backend, Path(folder), redis.url)
            env = {"EKBO_REDIS_URL": redis.url, "EKBO_REDIS_PREFIX": PREFIX, "EKBO_REGISTRY": "false"}
            listener = Redis(port=redis.port, protocol=3).pubsub()
            await listener.psubscribe("*")
            await listener.get_message(timeout=1)  # that it is subscribed
            one, two = await servers.start("uvicorn", env), await servers.start("uvicorn", env)
            async with client(two, "bob"), client(two, "carol"):
                await send(one, "bob", b"text")
                await send(one, "bob", b"\0binary", ("Content-Type", "application/octet-stream"))
                await close(one, "bob", b"last")
                async with client(one, "carol"):  # claims the key
                    await asyncio.sleep(0.2)
            await asyncio.gather(one.stop(), two.stop())
            with (FOLDER / f"{release}.cluster.jsonl").open("w") as out:
                while message := await listener.get_message(timeout=1):
                    line = {"channel": message["channel"].decode(), "payload": message["data"].hex()}
                    out.write(json.dumps(line) + "\n")
            await listener.aclose()  # type: ignore[no-untyped-call]
            await servers.stop()
    await backend.stop()


def main() -> None:
    import django

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("release", type=int, help="its number, one more than the last one")
    release = parser.parse_args().release
    os.environ["EKBO_SECRET_KEY"] = SECRET_KEY
    os.environ.setdefault("EKBO_CONNECT_CALLBACK_URL", "http://127.0.0.1:1/")
    os.environ["DJANGO_SETTINGS_MODULE"] = "kbproject.settings"
    django.setup()
    FOLDER.mkdir(exist_ok=True)
    asyncio.run(record_databases(release))
    asyncio.run(record_cluster(release))


if __name__ == "__main__":
    main()
