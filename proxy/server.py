"""The uvicorn runner behind `manage.py runproxy`: listening sockets, uvicorn's settings, start and stop."""

import logging
import os
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any
from urllib.parse import unquote

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from proxy.conf import Options
from proxy.endpoint import listening_on
from proxy.garbage import tune_garbage_collector
from proxy.keepalive import KeepAlive
from proxy.protocol import header_values
from proxy.websocket import Serving, WebSocketProtocol

BACKLOG = 2048
GRACEFUL_SHUTDOWN = 10  # seconds for close callbacks after SIGTERM
MAX_HEAD_SIZE = 512 * 1024  # bytes of one request's line and headers: room for 1,000 session keys of any length

logger = logging.getLogger("proxy.server")


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with a limit on headers, which httptools hasn't, and our own WebSocket side."""

    _running: RequestResponseCycle | None = None
    _reading_head = True
    _head_size = 0

    def data_received(self, data: bytes) -> None:
        if self._reading_head:
            self._head_size += len(data)
        super().data_received(data)
        # What came with the last piece of the head may be body, so it counts only while the head isn't complete.
        if self._reading_head and self._head_size > MAX_HEAD_SIZE and not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            self.transport.close()

    def on_message_begin(self) -> None:
        self._reading_head = True
        self._head_size = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._reading_head = False
        super().on_headers_complete()

    def _get_upgrade(self) -> bytes | None:
        # uvicorn's looks at the last Connection line only, where there may be several (RFC 9110 section 5.3).
        tokens = b",".join(header_values(self.headers, b"connection")).lower().split(b",")
        if b"upgrade" not in map(bytes.strip, tokens):
            return None
        return b",".join(header_values(self.headers, b"upgrade")).lower()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        # uvicorn tells the last of several pipelined requests only, and the others then write to a closed socket.
        for cycle in [self._running, *(cycle for cycle, _ in self.pipeline)]:
            if cycle:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        if self._running and not self._running.response_complete:
            self.send_400_response("A WebSocket handshake can't be pipelined.")
            return
        self.connections.discard(self)
        try:
            url = httptools.parse_url(self.url)
            path = unquote(url.path.decode("ascii"))
        except (httptools.HttpParserError, ValueError, AttributeError):
            self.send_400_response("Invalid HTTP request received.")
            return
        scope: dict[str, Any] = {**self.scope, "path": path, "raw_path": url.path, "query_string": url.query or b""}
        socket = WebSocketProtocol(_serving(self.config, self.server_state), self.transport)
        self.transport.set_protocol(socket)
        socket.upgrade(scope)
        # This object and its parser hold each other; nothing needs them any more.
        self.parser = None


@cache
def _serving(config: uvicorn.Config, state: ServerState) -> Serving:
    return Serving(config.loaded_app, state, config.ws_max_size, KeepAlive())


def listen(options: Options, workers: int = 1) -> list[socket.socket]:
    """The listening socket of each worker: a UNIX socket, which they share, one address, or all. Raises OSError."""
    if options.sock:
        return [_listen_unix(options.sock)] * workers
    # Made without SO_REUSEPORT, so that it fails if anybody, another proxy too, listens there already. It joins the
    # others later, and takes their port with it.
    first = _listen_tcp(options)
    first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, workers > 1)
    same_port = replace(options, port=first.getsockname()[1])
    return [first, *(_listen_tcp(same_port, reuse_port=True) for _ in range(workers - 1))]


def _listen_tcp(options: Options, reuse_port: bool = False) -> socket.socket:
    address = options.host, options.port
    if not options.host and socket.has_dualstack_ipv6():
        return socket.create_server(
            address, family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True, reuse_port=reuse_port
        )
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    return socket.create_server(address, family=family, backlog=BACKLOG, reuse_port=reuse_port)


def _listen_unix(path: str) -> socket.socket:
    if _is_socket(path):
        # Left behind by a process that was killed, unless somebody answers on it.
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _is_socket(path: str) -> bool:
    return os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode)


def uvicorn_config(application: Any, options: Options) -> uvicorn.Config:
    """uvicorn as the proxy wants it; a test compares the benchmark's bare application with it."""
    return uvicorn.Config(
        application,
        loop="uvloop",
        http=HttpProtocol,
        ws=WebSocketProtocol,
        ws_max_size=options.max_message_size,
        proxy_headers=False,  # trusted_proxies decides
        server_header=False,
        access_log=False,  # uvicorn's would show query strings
        log_config=None,
        timeout_graceful_shutdown=GRACEFUL_SHUTDOWN,
    )


class _Server(uvicorn.Server):
    """Says where it listens, once it takes signals and serves."""

    def __init__(self, config: uvicorn.Config, announcement: str) -> None:
        super().__init__(config)
        self._announcement = announcement

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        logger.info(self._announcement)


def run(application: Any, listener: socket.socket, options: Options) -> None:
    """Serve with this process alone until SIGTERM or SIGINT."""
    tune_garbage_collector()
    exit_on_signals()
    with socket_file(options):
        serve(application, listener, options)


def serve(application: Any, listener: socket.socket, options: Options, worker: str = "") -> None:
    """Serve until a signal; `worker` says in the log who does."""
    listening_on(listener.getsockname())
    announcement = f"{worker}listening on {where(options, listener.getsockname())}"
    _Server(uvicorn_config(application, options), announcement).run([listener])


def exit_on_signals() -> None:
    """Make SIGTERM and SIGINT a good end: uvicorn takes them while it serves, and raises them again afterwards."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))


@contextmanager
def socket_file(options: Options) -> Iterator[None]:
    """Unlink the UNIX socket, if there is one, at the end of the process that has made it."""
    process = os.getpid()
    inode = os.stat(options.sock).st_ino if options.sock else 0
    try:
        yield
    finally:
        # Workers that were forked meanwhile leave it alone, and another proxy may have put its own there since.
        ours = options.sock and os.getpid() == process
        if ours and os.path.exists(options.sock) and os.stat(options.sock).st_ino == inode:
            os.unlink(options.sock)


def where(options: Options, address: Any = None) -> str:
    """In words, where the options say that is listened; `address` is the bound one, of which the port counts."""
    if options.sock:
        return options.sock
    port = address[1] if address else options.port
    return f"{options.host or 'all addresses'} port {port}"
