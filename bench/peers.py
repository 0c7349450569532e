"""The peers: other push servers, set up as their documentation says, with the same work to do.

None is part of the project: each runs if its program is installed here (`make bench-peers`) and is named as absent
otherwise.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .ground import Ground, Servers
from .processes import free_port
from .system import System, post

CENTRIFUGO_KEY = "bench"  # of its HTTP API, which has no other purpose here


def find(program: str) -> str | None:
    """Return the path of a program on PATH or where `go install` puts it."""
    go_folders = [os.environ.get("GOBIN"), *[f"{path}/bin" for path in os.environ.get("GOPATH", "").split(":") if path]]
    places = [os.environ.get("PATH"), *go_folders, os.path.expanduser("~/go/bin")]
    return shutil.which(program, path=os.pathsep.join(place for place in places if place))


class Peer(System):
    """A server that must be installed first."""

    program: str
    install: str

    def missing(self) -> str:
        return "" if find(self.program) else f"{self.program} is neither on PATH nor in Go's folder: {self.install}"

    def path(self) -> str:
        """Return where its program is."""
        return find(self.program) or self.program


class GoPeer(Peer):
    """A peer that `go install` builds."""

    module: str

    def __init__(self) -> None:
        self.install = f"go install {self.module}@latest"

    def versions(self) -> dict[str, str]:
        """Return the version of its module, and of Go, as the program itself has them written down."""
        if not shutil.which("go"):
            return {self.name: "?"}
        said = subprocess.run(["go", "version", "-m", self.path()], capture_output=True, text=True, check=True).stdout
        module = re.search(r"\n\tmod\t\S+\t(\S+)", said)
        return {self.name: f"{module[1] if module else '?'} ({said.splitlines()[0].rpartition(' ')[2]})"}


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


NCHAN = """
load_module {module};
daemon off;
{user}
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 16000; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 1m;
    client_body_buffer_size 32k;
    large_client_header_buffers 8 32k;
    keepalive_requests 1000000;
    nchan_max_reserved_memory 2048M;
    nchan_max_channel_id_length 16384;
    upstream backend {{
        server 127.0.0.1:{backend};
        keepalive 64;
    }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location = /ping {{ return 200 OK; }}
        location = /connect {{
            nchan_pubsub websocket;
            nchan_channel_id $arg_key;
            nchan_subscriber_first_message newest;
            nchan_websocket_ping_interval 20;
            nchan_authorize_request /authorize;
            nchan_publisher_upstream_request /receive;
        }}
        location = /authorize {{
            internal;
            proxy_pass http://backend/connect?key=$arg_key;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
        }}
        location = /receive {{
            internal;
            proxy_pass http://backend/nchan/receive;
            proxy_set_header X-Kuiperbelt-Session $arg_key;
        }}
        location = /send {{
            nchan_publisher;
            nchan_channel_id $arg_keys;
            nchan_channel_id_split_delimiter ",";
            nchan_message_buffer_length 0;
        }}
    }}
}}
"""


class Nchan(Peer):
    """Nchan in nginx: a channel per session, authorised at connect; what clients send goes to the backend only."""

    name = "nchan"
    program = "nginx"
    install = "apt-get install libnginx-mod-nchan"
    note = "1 worker of nginx, messages are not stored, several keys in one request of up to 255"
    lacks = frozenset({"batch"})

    def missing(self) -> str:
        if super().missing():
            return super().missing()
        return "" if self.module().exists() else f"{self.module()} does not exist: {self.install}"

    def module(self) -> Path:
        """Return where nginx has its modules, and so Nchan's."""
        said = subprocess.run([self.path(), "-V"], capture_output=True, text=True, check=True).stderr
        folder = re.search(r"--modules-path=(\S+)", said)
        return Path(folder[1] if folder else "/usr/lib/nginx/modules", "ngx_nchan_module.so")

    def versions(self) -> dict[str, str]:
        said = subprocess.run([self.path(), "-v"], capture_output=True, text=True, check=True).stderr
        packages = ["dpkg-query", "--show", "--showformat", "${Version}", "libnginx-mod-nchan"]
        nchan = subprocess.run(packages, capture_output=True, text=True).stdout if shutil.which("dpkg-query") else ""
        return {"nginx": said.strip().rpartition("/")[2], "nchan": nchan or "?"}

    def command(self, on: Ground, port: int) -> list[str]:
        user = "user root;" if os.geteuid() == 0 else ""  # its folder here is ours alone
        values = {"module": self.module(), "folder": on.folder, "backend": on.backend_port, "port": port, "user": user}
        (on.folder / "nginx.conf").write_text(NCHAN.format(**values))
        return [self.path(), "-p", str(on.folder), "-c", "nginx.conf", "-e", "stderr"]

    def push(self, keys: Sequence[str], message: bytes) -> bytes:
        return post(f"/send?keys={','.join(keys)}", "text/plain", message)

    def accepted(self, response: bytes) -> bool:
        return response.startswith(b"HTTP/1.1 201")  # 202: nobody is there


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
            "http_api": {"key": CENTRIFUGO_KEY},
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
        return post(f"/api/{method}", "application/json", data, f"X-API-Key: {CENTRIFUGO_KEY}")

    def accepted(self, response: bytes) -> bool:
        return response.startswith(b"HTTP/1.1 200") and b'"error"' not in response


PUSHPIN = """
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
        (on.folder / "pushpin.conf").write_text(PUSHPIN.format(folder=on.folder, port=port, send_port=send_port))
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
