"""The options that say at which paths the proxy serves what, and how any option is declared. Used by `options`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from proxy import values


def option(key: str, variable: str, parse: Callable[[Any], Any], default: Any, meaning: str) -> Any:
    """Declare an option: its YAML key, its environment variable, how it is read, and what it means."""
    metadata = {"key": key, "variable": variable, "parse": parse, "meaning": meaning}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Paths:
    """Where things are."""

    connect_path: str = option("path.connect", "EKBO_CONNECT_PATH", values.path, "/connect", "where clients connect")
    send_path: str = option("path.send", "EKBO_SEND_PATH", values.path, "/send", "where the backend pushes")
    close_path: str = option("path.close", "EKBO_CLOSE_PATH", values.path, "/close", "where the backend closes")
    batch_path: str = option(
        "path.batch", "EKBO_BATCH_PATH", values.path, "/batch", "where the backend pushes many at once"
    )
    stats_path: str = option("path.stats", "EKBO_STATS_PATH", values.path, "/stats", "counters for monitoring")
    metrics_path: str = option(
        "path.metrics", "EKBO_METRICS_PATH", values.path, "/metrics", "the same and more, for Prometheus"
    )
    ping_path: str = option("path.ping", "EKBO_PING_PATH", values.path, "/ping", "is the process alive?")
    ready_path: str = option("path.ready", "EKBO_READY_PATH", values.path, "/ready", "can it do all its work?")
    sessions_path: str = option(
        "path.sessions", "EKBO_SESSIONS_PATH", values.path, "/sessions", "where the backend asks who is connected"
    )
