"""The yardstick: a bare ASGI application that does the proxy's visible job the shortest fair way.

Run by bench.systems, on uvicorn (`python -m bench.bare --port 9180`) or on daphne (`daphne bench.bare:application`).
"""

import argparse
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

import uvicorn

from proxy.garbage import tune_garbage_collector

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

SESSION_HEADER = b"x-kuiperbelt-session"

connections: dict[str, Send] = {}


class Others(Protocol):
    """The way to other processes' sessions (bench.bare_cluster)."""

    def come(self, key: str) -> None:
        """A session is here now."""

    def gone(self, key: str) -> None:
        """It is here no more."""

    async def push(self, key: str, text: str) -> bool:
        """Push to a session of another process; False if no process has it."""


others: Others | None = None


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Register sockets by the `key` of their query string and push the body of POST /send to them."""
    if scope["type"] == "websocket":
        await hold(scope, receive, send)
    elif scope["type"] == "http":
        await answer(scope, receive, send)
    else:
        await live(receive, send)


async def hold(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Hold one WebSocket from its acceptance to its end."""
    key = scope["query_string"].decode().removeprefix("key=")
    await receive()
    connections[key] = send
    if others:
        others.come(key)
    try:
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
    finally:
        if connections.get(key) is send:
            del connections[key]
            if others:
                others.gone(key)


async def answer(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answer POST /send, and anything else (the readiness check) with an empty success."""
    status, body = 200, b'{"result":"OK"}'
    if scope["path"] == "/send" and not await push(scope["headers"], receive):
        status, body = 400, b'{"result":"NG"}'
    headers = [(b"content-type", b"application/json; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def push(headers: Iterable[tuple[bytes, bytes]], receive: Receive) -> bool:
    """Send the request's body as text to every session named in a header line; False if one was unknown."""
    message = await receive()
    body = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    text = body.decode()
    complete = True
    for name, value in headers:
        if name == SESSION_HEADER:
            key = value.decode()
            deliver = connections.get(key)
            if deliver is not None:
                await deliver({"type": "websocket.send", "text": text})
            elif others is None or not await others.push(key, text):
                complete = False
    return complete


async def live(receive: Receive, send: Send) -> None:
    """Follow the lifespan protocol: nothing to start, nothing to stop."""
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


def config(port: int) -> uvicorn.Config:
    """uvicorn as `manage.py runproxy` sets it (proxy.server), with its own stock protocols; a test compares them."""
    return uvicorn.Config(
        application,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_max_size=65536,
        ws_ping_interval=20.0,
        ws_ping_timeout=20.0,
        ws_per_message_deflate=False,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=2,
    )


def main() -> None:
    """Serve the application on uvicorn."""
    parser = argparse.ArgumentParser(prog="python -m bench.bare")
    parser.add_argument("--port", type=int, required=True)
    tune_garbage_collector()
    uvicorn.Server(config(parser.parse_args().port)).run()


if __name__ == "__main__":
    main()
