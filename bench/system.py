"""What the bench must know of a server to measure it: how to start it, where to connect, how to push.

A system is a subclass: ours and the bare ones in bench.ours, the peers in bench.peers; bench.systems lists them all.
bench.run starts its servers, bench.load speaks to them.
"""

from collections.abc import Sequence

from .ground import Ground, Servers
from .processes import free_port


class System:
    """A server under test. Subclasses name it and give its command; the rest has kuiperbelt's shape as default."""

    name: str
    ping_path = "/ping"
    note = ""  # how it is set up, for the report
    lacks: frozenset[str] = frozenset()  # kinds of work (bench.work) that it has no equivalent of
    keep_alive = True  # whether it takes several pushes on one connection
    client_ping = b""  # a message by which it asks a client whether it is there, and its answer

    # The server's side, used by bench.run.

    def missing(self) -> str:
        """Say what must be installed to run it here; empty if nothing."""
        return ""

    def versions(self) -> dict[str, str]:
        """Return the versions of its programs, by name."""
        return {}

    def command(self, on: Ground, port: int) -> list[str]:
        """Return the command that serves on 127.0.0.1:port; it is run in the project's root."""
        raise NotImplementedError

    def environment(self, on: Ground, port: int) -> dict[str, str]:
        """Return the variables to add to the environment of the server."""
        return {}

    def start(self, on: Ground) -> Servers:
        """Start the servers and wait until they answer."""
        port = free_port()
        process = on.launch(self.command(on, port), self.environment(on, port))
        process.wait_ready(port, self.ping_path)
        return Servers((process,), port)

    # The client's side, used by bench.load.

    def connect_target(self, key: str) -> str:
        """Return the request target of the WebSocket handshake for the session `key`."""
        return f"/connect?key={key}"

    def greeting(self, key: str) -> bytes:
        """Return the message that a client sends first, after which it waits for an answer; empty: none is needed."""
        return b""

    def say(self, message: bytes) -> bytes:
        """Return what a client sends so that the backend receives `message`."""
        return message

    # The backend's side, used by bench.load.

    def push(self, keys: Sequence[str], message: bytes) -> bytes:
        """Return the HTTP request that pushes a message to all sessions named."""
        return post("/send", "text/plain", message, *[f"X-Kuiperbelt-Session: {key}" for key in keys])

    def batch(self, keys: Sequence[str], message: bytes) -> bytes:
        """Return the HTTP request that pushes to each session a message of its own (here all say the same)."""
        raise NotImplementedError

    def accepted(self, response: bytes) -> bool:
        """Tell whether the HTTP response says that every session got its message."""
        return response.startswith(b"HTTP/1.1 200") and b'{"result":"OK"}' in response


def post(target: str, content_type: str, body: bytes, *headers: str) -> bytes:
    """Return a POST request."""
    lines = [f"POST {target} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {content_type}", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
