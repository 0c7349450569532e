"""The counters behind GET /stats, of this process (contract: GET ping, stats)."""

import json
import time


class Stats:
    """Counters that every part of the proxy adds to; plain integers, since one event loop owns them."""

    __slots__ = (
        "closing_connections",
        "connect_errors",
        "connections",
        "message_errors",
        "receive_errors",
        "total_connections",
        "total_messages",
    )

    def __init__(self) -> None:
        self.connections = 0
        """Live sessions."""
        self.total_connections = 0
        """Handshakes tried, refused ones included."""
        self.total_messages = 0
        """Frames for clients that were tried, first frames included."""
        self.connect_errors = 0
        """Handshakes that failed, but for those that the backend refused with 403."""
        self.message_errors = 0
        """Frames that were accepted but could not be written."""
        self.closing_connections = 0
        """Close callbacks under way."""
        self.receive_errors = 0
        """Receive callbacks that failed; for tests and debugging, since the fields of /stats are kuiperbelt's."""

    def as_json(self) -> bytes:
        names = ("connections", "total_connections", "total_messages", "connect_errors", "message_errors")
        counts = {name: getattr(self, name) for name in (*names, "closing_connections")}
        return json.dumps(counts, separators=(",", ":")).encode() + b"\n"

    def as_tsv(self) -> bytes:
        rows = {
            "conn.current": self.connections,
            "conn.total": self.total_connections,
            "conn.errors": self.connect_errors,
            "conn.closing": self.closing_connections,
            "messages.total": self.total_messages,
            "messages.errors": self.message_errors,
        }
        now = int(time.time())
        return "".join(f"kuiperbelt.{name}\t{count}\t{now}\n" for name, count in rows.items()).encode()


stats = Stats()
