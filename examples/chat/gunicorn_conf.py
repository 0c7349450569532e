"""gunicorn's settings for the chat: two processes that each do one thing at a time."""

import socket
from typing import Any

workers = 2
worker_class = "sync"
loglevel = "warning"
control_socket_disable = True
preload_app = False

IDLE_LIMIT = 120  # seconds


def when_ready(server: Any) -> None:
    """Let the kernel keep connections on which nothing was sent yet.

    Browsers open spare connections in advance. A sync worker that accepts one waits for its first byte and
    can do nothing else: two of them would stop the whole application, callbacks of the proxy included.
    (Behind nginx this can't happen: it talks to workers only when it has a whole request.)
    """
    if hasattr(socket, "TCP_DEFER_ACCEPT"):
        for listener in server.LISTENERS:
            listener.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, IDLE_LIMIT)
