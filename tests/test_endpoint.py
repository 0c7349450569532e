"""X-Kuiperbelt-Endpoint: configured, or the port that is really bound."""

import socket

from proxy.conf import Options
from proxy.endpoint import endpoint_for

HOST = socket.gethostname()


def test_endpoint() -> None:
    scope = {"server": ("127.0.0.1", 5555)}
    assert endpoint_for(scope, Options(endpoint="node.example:1")) == "node.example:1"
    assert endpoint_for(scope, Options(port=9180)) == f"{HOST}:5555"
    assert endpoint_for({"server": ("127.0.0.1", 80)}, Options()) == HOST
    assert endpoint_for({"server": ("/run/proxy.sock", None)}, Options()) == f"{HOST}:9180"
    assert endpoint_for({}, Options()) == f"{HOST}:9180"
