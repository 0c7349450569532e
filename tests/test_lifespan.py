"""The lifespan events. How sessions end with each server: the contract tests, SIGTERM."""

from proxy import callbacks
from proxy.lifespan import lifespan


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
