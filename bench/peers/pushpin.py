"""Pushpin, four processes."""

import json
import subprocess
from collections.abc import Sequence

from ..ground import Ground, Servers
from ..processes import free_port
from ..system import post
from .peer import Peer

CONFIGURATION = """
[global]
include=/usr/lib/pushpin/internal.conf
rundir={folder}
ipc_prefix=bench-
port_offset=0

[runner]
services=condure,zurl,pushpin-proxy,pushpin-handler
http_port=127.0.0.1:{port}
logdir={folder}
log_level=1
client_buffer_size=32768
client_maxconn=20000

[proxy]
routesfile={folder}/routes
zurl_out_specs=ipc://{folder}/bench-zurl-in
zurl_out_stream_specs=ipc://{folder}/bench-zurl-in-stream
zurl_in_specs=ipc://{folder}/bench-zurl-out
sig_key=bench
updates_check=off

[handler]
push_in_spec=
push_in_sub_specs=
push_in_http_addr=127.0.0.1
push_in_http_port={send_port}
push_in_http_max_headers_size=10000
push_in_http_max_body_size=20000000
stats_spec=
command_spec=
message_rate=1000000
message_hwm=1000000
"""


class Pushpin(Peer):
    """Pushpin: each session is a channel; WebSocket-over-HTTP to the backend, which subscribes the client."""

    name = "pushpin"
    program = "pushpin"
    install = "apt-get install pushpin"
    note = "its limit of 2,500 messages/s lifted; it answers before it delivers and closes each sender's connection"
    keep_alive = False

    def versions(self) -> dict[str, str]:
        said = subprocess.run([self.path(), "--version"], capture_output=True, text=True, check=True).stdout
        return {"pushpin": said.strip().rpartition(" ")[2]}

    def start(self, on: Ground) -> Servers:
        port, send_port = free_port(), free_port()
        (on.folder / "routes").write_text(f"* 127.0.0.1:{on.backend_port},over_http\n")
        (on.folder / "pushpin.conf").write_text(CONFIGURATION.format(folder=on.folder, port=port, send_port=send_port))
        process = on.launch([self.path(), f"--config={on.folder}/pushpin.conf"])
        process.wait_ready(port, self.ping_path)
        return Servers((process,), port, send_port)

    def connect_target(self, key: str) -> str:
        return f"/pushpin?key={key}"

    def push(self, keys: Sequence[str], message: bytes) -> bytes:
        formats = {"ws-message": {"content": message.decode()}}
        items = [{"channel": key, "formats": formats} for key in keys]
        return post("/publish/", "application/json", json.dumps({"items": items}, separators=(",", ":")).encode())

    def batch(self, keys: Sequence[str], message: bytes) -> bytes:
        return self.push(keys, message)

    def accepted(self, response: bytes) -> bool:
        return response.startswith(b"HTTP/1.1 200")
