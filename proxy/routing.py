"""WebSocket handshakes to consumers: the connect path, and a 404 for all others."""

from typing import Any

from channels.routing import URLRouter
from django.urls import path, re_path

from proxy import conf
from proxy.consumers import NotFoundConsumer, SessionConsumer


def websocket_application() -> Any:
    """The ASGI application for WebSocket scopes."""
    return URLRouter(
        [
            path(conf.options().connect_path.removeprefix("/"), SessionConsumer.as_asgi()),
            re_path("", NotFoundConsumer.as_asgi()),
        ]
    )
