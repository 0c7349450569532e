"""X-Kuiperbelt-Endpoint: where a backend finds the node that holds a session (contract: Configuration, endpoint)."""

import socket
from functools import lru_cache
from typing import Any

from proxy.conf import Options


def endpoint_for(scope: dict[str, Any], options: Options) -> str:
    """The configured endpoint, else this host's name and the port that the connection really came in on."""
    if options.endpoint:
        return options.endpoint
    server = scope.get("server")
    port = server[1] if server and server[1] else options.port
    return _host_and_port(port)


@lru_cache
def _host_and_port(port: int) -> str:
    # As kuiperbelt: well-known ports aren't named.
    host = socket.gethostname()
    return host if port <= 1023 else f"{host}:{port}"
