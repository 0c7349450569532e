"""Centrifugo (Go)."""

import json
from collections.abc import Sequence

from ..ground import Ground
from ..system import post
from .peer import GoPeer

KEY = "bench"  # of its HTTP API, which has no other purpose here


class Centrifugo(GoPeer):
    """Centrifugo: each session is a user with a personal channel; the JSON form of its client protocol."""

    name = "centrifugo"
    program = "centrifugo"
    module = "github.com/centrifugal/centrifugo/v6"
    note = "GOMAXPROCS as it is by default; receive is its RPC, with an answer to the client"
    ping_path = "/health"
    client_ping = b"{}"

    def command(self, on: Ground, port: int) -> list[str]:
        connect = {"enabled": True, "endpoint": on.url("/centrifugo/connect"), "timeout": "10s"}
        config = {
            "http_server": {"address": "127.0.0.1", "port": port},
            "http_api": {"key": KEY},
            "client": {"proxy": {"connect": connect}, "subscribe_to_user_personal_channel": {"enabled": True}},
            "rpc": {"proxy": {"endpoint": on.url("/centrifugo/rpc")}, "without_namespace": {"proxy_enabled": True}},
            "health": {"enabled": True},
            "usage_stats": {"disabled": True},  # sends nothing to anybody
        }
        file = on.folder / "config.json"
        file.write_text(json.dumps(config))
        return [self.path(), "-c", str(file)]

    def connect_target(self, key: str) -> str:
        return "/connection/websocket"

    def greeting(self, key: str) -> bytes:
        return json.dumps({"id": 1, "connect": {"data": {"key": key}}}).encode()

    def say(self, message: bytes) -> bytes:
        return b'{"id":2,"rpc":{"method":"receive","data":"%b"}}' % message

    def push(self, keys: Sequence[str], message: bytes) -> bytes:
        if len(keys) == 1:
            return self.call("publish", {"channel": f"#{keys[0]}", "data": message.decode()})
        return self.call("broadcast", {"channels": [f"#{key}" for key in keys], "data": message.decode()})

    def batch(self, keys: Sequence[str], message: bytes) -> bytes:
        commands = [{"publish": {"channel": f"#{key}", "data": message.decode()}} for key in keys]
        return self.call("batch", {"commands": commands})

    def call(self, method: str, body: object) -> bytes:
        """Return a request to the HTTP API."""
        data = json.dumps(body, separators=(",", ":")).encode()
        return post(f"/api/{method}", "application/json", data, f"X-API-Key: {KEY}")

    def accepted(self, response: bytes) -> bool:
        return response.startswith(b"HTTP/1.1 200") and b'"error"' not in response
