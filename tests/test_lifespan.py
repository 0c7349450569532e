"""The lifespan events. How sessions end with each server: the contract tests, SIGTERM."""

import pytest

from proxy import callbacks
from proxy.lifespan import lifespan
from tests.clients import request
from tests.operators import manage
from tests.servers import ALONE, Servers, free_port


async def test_the_end_closes_connections_to_the_backend() -> None:
    client = callbacks.client()
    events = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent = []

    async def receive() -> dict[str, str]:
        return events.pop(0)

    async def send(message: dict[str, str]) -> None:
        sent.append(message["type"])

    await lifespan({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert callbacks.client() is not client
    await callbacks.shut_down()


@pytest.mark.parametrize("kind", ALONE)
async def test_daphne_says_what_it_can_not_do(servers: Servers, kind: str) -> None:
    """And no other server does."""
    server = await servers.start(kind, {"EKBO_API_PORT": str(free_port())})
    assert (await request(server, "GET", "/ping")).status == 200
    await server.stop()
    said = [line for line in server.output().splitlines() if "daphne has one listener" in line]
    assert len(said) == (kind == "daphne")


async def test_runserver_is_daphne_s() -> None:
    """Django's own can't serve WebSockets."""
    done = await manage("runserver", "--help", env={"EKBO_CONNECT_CALLBACK_URL": "http://127.0.0.1:1/"})
    assert "--noasgi" in done.output
