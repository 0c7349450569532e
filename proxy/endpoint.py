"""X-Kuiperbelt-Endpoint: where a backend finds the node that holds a session (contract: Configuration, endpoint).

And the address of this process's own API, for the registry.
"""

import os
import socket
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from proxy.conf import Options


def endpoint_for(scope: dict[str, Any], options: Options) -> str:
    """The configured endpoint, else this host's name and the port that the connection really came in on.

    With a listener of the API's own it is that one's address, or its UNIX socket's path.
    """
    if options.endpoint:
        return options.endpoint
    if options.has_api_listener:
        return api_address(scope)
    server = scope.get("server")
    port = server[1] if server and server[1] else options.port
    return _host_and_port(port)


@lru_cache
def _host_and_port(port: int) -> str:
    # As kuiperbelt: well-known ports aren't named.
    host = socket.gethostname()
    return host if port <= 1023 else f"{host}:{port}"


_listening = ""


def listening_on(address: Any) -> None:
    """Our own server says where: the bound address of the socket that has the API."""
    global _listening
    _listening = _reachable(address)


def api_address(scope: Mapping[str, Any]) -> str:
    """host:port, or a UNIX socket's path; by a request's `scope` where the server isn't ours. Empty: unknown."""
    return _listening or _reachable(scope.get("server") or "")


def _reachable(address: Any) -> str:
    if not address or isinstance(address, str):
        return os.path.abspath(address) if address else ""
    host, port = address[:2]
    if port is None:  # ASGI's way to name a UNIX socket
        return str(host)
    if host in ("", "::", "0.0.0.0"):
        host = socket.gethostname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
