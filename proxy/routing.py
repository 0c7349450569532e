"""WebSocket handshakes to consumers: the connect path, and a 404 for all others."""

from typing import Any

from channels.consumer import AsyncConsumer

from proxy import conf, handshake
from proxy.consumers import SessionConsumer
from proxy.exceptions import ConnectRefused
from proxy.stats import stats


class NotFoundConsumer(AsyncConsumer):
    """WebSocket handshakes at paths that aren't ours."""

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        stats.total_connections += 1
        await receive()  # websocket.connect
        await handshake.refuse(scope, send, ConnectRefused.plain(404, "not found", cause="not_found"))


async def websocket_application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The ASGI application for WebSocket scopes.

    There is one path, so this is a comparison; Channels' URLRouter also raises for a path that a client's headers bent.
    """
    consumer = SessionConsumer if scope["path"] == conf.options().connect_path else NotFoundConsumer
    await consumer.as_asgi()(scope, receive, send)
