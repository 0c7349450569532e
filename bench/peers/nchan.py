"""Nchan, a module of nginx."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ..ground import Ground
from ..system import post
from .peer import Peer

CONFIGURATION = """
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
        (on.folder / "nginx.conf").write_text(CONFIGURATION.format(**values))
        return [self.path(), "-p", str(on.folder), "-c", "nginx.conf", "-e", "stderr"]

    def push(self, keys: Sequence[str], message: bytes) -> bytes:
        return post(f"/send?keys={','.join(keys)}", "text/plain", message)

    def accepted(self, response: bytes) -> bool:
        return response.startswith(b"HTTP/1.1 201")  # 202: nobody is there
