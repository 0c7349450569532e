"""kuiperbelt (Go), whose contract ours is."""

import json

from ..ground import Ground
from .peer import GoPeer


class Kuiperbelt(GoPeer):
    """The original. It can't be told to listen on loopback only."""

    name = "kuiperbelt"
    program = "ekbo"
    module = "github.com/kuiperbelt/kuiperbelt/cmd/ekbo"
    note = "GOMAXPROCS as it is by default, access log off"
    lacks = frozenset({"batch"})

    def command(self, on: Ground, port: int) -> list[str]:
        config = {
            "port": str(port),
            "endpoint": f"127.0.0.1:{port}",
            "callback": {"connect": on.url("/connect"), "receive": on.url("/receive")},
            "suppress_access_log": True,
        }
        file = on.folder / "config.yml"
        file.write_text(json.dumps(config))  # which is YAML too
        return [self.path(), "-config", str(file)]

    def environment(self, on: Ground, port: int) -> dict[str, str]:
        return {"GOPS_CONFIG_DIR": str(on.folder)}  # where it notes the port of its debugging agent
