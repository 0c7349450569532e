"""One HTTP request through the lean handler, called as ASGI."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from proxy.handlers import ProxyHandler


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True
    """Was it ended, or broken off?"""


async def ask(
    method: str,
    target: str,
    *headers: tuple[bytes, bytes],
    body: Sequence[bytes] = (b"",),
    hang_up: bool = False,
    peer: str = "127.0.0.1",
) -> Answer | None:
    """One request through the handler; None when it sent no answer."""
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": list(headers),
        "client": (peer, 5),
        "server": ("127.0.0.1", 9180),
        "scheme": "http",
    }
    parts = [{"type": "http.request", "body": part, "more_body": True} for part in body]
    parts += [{"type": "http.disconnect"}] if hang_up else [{"type": "http.request", "body": b"", "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        return parts.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    async def fallback(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": b"django"})

    await ProxyHandler(fallback)(scope, receive, send)
    if not sent:
        return None
    start, *content = sent
    decoded = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(
        start["status"], decoded, b"".join(part["body"] for part in content), not content[-1].get("more_body")
    )
