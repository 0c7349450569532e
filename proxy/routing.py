"""WebSocket handshakes to consumers: the connect path, and a 404 for all others."""

from typing import Any

from proxy import conf
from proxy.consumers import NotFoundConsumer, SessionConsumer


async def websocket_application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The ASGI application for WebSocket scopes.

    There is one path, so this is a comparison; Channels' URLRouter also raises for a path that a client's headers bent.
    """
    consumer = SessionConsumer if scope["path"] == conf.options().connect_path else NotFoundConsumer
    await consumer.as_asgi()(scope, receive, send)
