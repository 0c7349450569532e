"""The uvicorn runner behind `manage.py runproxy`: the HTTP protocol, uvicorn's settings, start and stop."""

import asyncio
import logging
import signal
import socket
import ssl
from collections.abc import Sequence
from functools import cache, partial
from time import monotonic
from types import FrameType
from typing import Any, cast
from urllib.parse import unquote

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from proxy import delivery, push_lane
from proxy.conf import Options
from proxy.drain import STEP, drain, exit_on_signals, ignore_signals, take_signal
from proxy.endpoint import listening_on
from proxy.garbage import tune_garbage_collector
from proxy.handlers import API
from proxy.http_keepalive import REST
from proxy.keepalive import KeepAlive
from proxy.listeners import BACKLOG, Sockets, places, socket_files
from proxy.protocol import header_values
from proxy.reload import reload
from proxy.tls import HANDSHAKE_LIMIT, SHUTDOWN_LIMIT
from proxy.websocket import Serving, WebSocketProtocol
from proxy.worker import READY, REPLACE, Worker

GRACEFUL_SHUTDOWN = 2  # seconds after the drain for clients that don't read, and for requests under way
HURRIED_SHUTDOWN = 1  # seconds for the same after a second signal
LEAVE_LEAST = 1.0  # seconds for what was accepted just before a successor took over
NO_SUCCESSOR = "SIGUSR2: a single process has nobody to take over from it; it needs a restart, or --workers 2"
HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
MAX_HEAD_SIZE = 512 * 1024  # bytes of one request's line and headers: room for 1,000 session keys of any length

logger = logging.getLogger("proxy.server")


class HttpProtocol(push_lane.PushLane):
    """uvicorn's HTTP protocol, the push lane, a limit on headers, which httptools lacks, and our WebSocket side."""

    _running: RequestResponseCycle | None = None

    def data_received(self, data: bytes) -> None:
        if self.reads_head or self.reads_body:
            self.head_size += len(data)
        super().data_received(data)
        # What came with the last piece of the head may be body, so it counts only while the head isn't complete; and
        # what came since the last piece of the body is trailers, which the parser keeps until their end.
        if self.head_size > MAX_HEAD_SIZE and (self.reads_head or self.reads_body) and not self.transport.is_closing():
            if self.reads_head:  # else the answer may have begun
                self.transport.write(HEAD_TOO_LARGE)
            self.transport.close()

    def _get_upgrade(self) -> bytes | None:
        if API in self.app_state:  # clients connect at the public listener only
            return None
        # uvicorn's looks at the last Connection line only, where there may be several (RFC 9110 section 5.3).
        tokens = b",".join(header_values(self.headers, b"connection")).lower().split(b",")
        if b"upgrade" not in map(bytes.strip, tokens):
            return None
        return b",".join(header_values(self.headers, b"upgrade")).lower()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        if (drain.begun or drain.replaced) and not self.pipeline:
            cycle.keep_alive = False  # so that nobody asks again on it just as this process goes
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        # uvicorn tells the last of several pipelined requests only, and the others then write to a closed socket.
        for cycle in [self._running, *(cycle for cycle, _ in self.pipeline)]:
            if cycle:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        # `cycle` may be a push in the lane. One that is answered already doesn't stand in the way.
        if any(cycle and not cycle.response_complete for cycle in (self._running, self.cycle)):
            self.send_400_response("A WebSocket handshake can't be pipelined.")
            return
        self.connections.discard(self)
        self.patience.discard(self)
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
        timeout_keep_alive=REST,
        timeout_graceful_shutdown=GRACEFUL_SHUTDOWN,
    )


class _Server(uvicorn.Server):
    """Tells the API's listener from the public one, and says where it listens, once it takes signals and serves."""

    def __init__(
        self,
        config: uvicorn.Config,
        tls: ssl.SSLContext | None,
        announcements: Sequence[str],
        options: Options,
        worker: Worker | None,
    ) -> None:
        super().__init__(config)
        self._tls = tls
        self._drain_window = options.drain_window
        self._handshake_limit = options.header_timeout or HANDSHAKE_LIMIT
        self._worker = worker
        if worker:
            worker.on_leave, worker.on_end = self._leave, self._end
        self._announcements = announcements

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        assert sockets
        if self._worker and self._worker.waits:  # its predecessor accepts until then
            while not self.should_exit and (await delivery.start()).problems():  # noqa: ASYNC110  # nobody says when
                await asyncio.sleep(STEP)
        for is_api, listener in enumerate(sockets):
            await self._listen(listener, None if is_api else self._tls, {API: True} if is_api else {})
        take_signal(signal.SIGHUP, reload)
        if not self._worker:
            take_signal(signal.SIGUSR2, partial(logger.error, NO_SUCCESSOR))
        for announcement in self._announcements:
            logger.info(announcement)
        if self._worker and self._worker.waits:
            self._worker.tell(READY)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._worker:  # somebody wants this one to end, or a service manager signals the whole group
            self._worker.tell(REPLACE)
            return
        drain.on_signal()
        if sig == signal.SIGINT:  # somebody waits at the terminal
            drain.hurry()
        super().handle_exit(sig, frame)

    def _leave(self) -> None:
        """The successor serves."""
        drain.replaced = self.should_exit = True

    def _end(self) -> None:
        """All workers end, this one not at once if it is leaving."""
        drain.begun = True
        super().handle_exit(signal.SIGTERM, None)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, while the listeners go on: load balancers still ask /ready, and backends push.

        If a successor has them it gets all that is new, and what has come before is served for as long.
        """
        began = monotonic()
        push_lane.hand_all_on(self.server_state.connections)
        if drain.replaced:
            for listener in self.servers:
                listener.close()
        alive = self.server_state.connections
        sessions = [each for each in alive if isinstance(each, WebSocketProtocol)]
        if sessions:
            logger.info("drain: %d connections within %g s", len(sessions), self._drain_window)
            await drain.spread(sessions, cast(Any, alive), WebSocketProtocol.shutdown, self._drain_window)
        while drain.replaced and not drain.hurried:
            since = monotonic() - began
            if since >= LEAVE_LEAST and not (alive and since < self._drain_window):
                break
            await asyncio.sleep(STEP)
        drain.over()
        self.config.timeout_graceful_shutdown = HURRIED_SHUTDOWN if drain.hurried else GRACEFUL_SHUTDOWN
        await super().shutdown(sockets)
        for each in tuple(alive):  # their clients don't read
            cast(Any, each).transport.abort()
        await asyncio.sleep(0)  # that is when transports close their sockets

    async def _listen(self, listener: socket.socket, tls: ssl.SSLContext | None, mark: dict[str, Any]) -> None:
        protocol = partial(
            HttpProtocol, config=self.config, server_state=self.server_state, app_state=self.lifespan.state | mark
        )
        server = await asyncio.get_running_loop().create_server(
            protocol,
            sock=listener,
            backlog=BACKLOG,
            ssl=tls,
            ssl_handshake_timeout=self._handshake_limit if tls else None,
            ssl_shutdown_timeout=SHUTDOWN_LIMIT if tls else None,
        )
        self.servers.append(server)


def run(application: Any, sockets: Sockets, options: Options, tls: ssl.SSLContext | None = None) -> None:
    """Serve with this process alone until SIGTERM or SIGINT."""
    tune_garbage_collector()
    exit_on_signals()
    with socket_files(options):
        serve(application, sockets, options, tls)


def serve(
    application: Any,
    sockets: Sockets,
    options: Options,
    tls: ssl.SSLContext | None = None,
    worker: Worker | None = None,
) -> None:
    """Serve until a signal, the public socket with TLS if there is a context, as this worker or alone."""
    addresses = [listener.getsockname() for listener in sockets]
    listening_on(addresses[-1])
    where = [place.in_words(address) for place, address in zip(places(options), addresses, strict=True)]
    name = f"{worker.name} " if worker else ""
    announcements = [f"{name}listening on {where[0]}", *(f"{name}API on {api}" for api in where[1:])]
    server = _Server(uvicorn_config(application, options), tls, announcements, options, worker)
    try:
        # uvicorn's own way turns asyncio's debug mode off on Python 3.11, whatever PYTHONASYNCIODEBUG says.
        with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
            runner.run(server.serve(list(sockets)))
    finally:
        ignore_signals()
