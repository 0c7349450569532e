"""The smallest backend: standard library only, one request at a time. `python examples/hello.py [PORT]`, 9181 without.

A client that connects with ?user=bob becomes the session "bob"; without a user it is refused. Everything else that the
proxy tells is printed.
"""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, make_server

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/connect":
        user = parse_qs(environ["QUERY_STRING"]).get("user", [""])[0]
        if not user:
            start_response("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"who are you? connect with ?user=NAME\n"]
        start_response("200 OK", [("X-Kuiperbelt-Session", user)])
        return [f"hello {user}".encode()]
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    print(environ["PATH_INFO"], environ["HTTP_X_KUIPERBELT_SESSION"], body.decode(errors="replace"), flush=True)
    start_response("200 OK", [])
    return []


class Quiet(WSGIRequestHandler):
    """Without a log line per request."""

    def log_message(self, *args: Any) -> None:
        pass


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 9181
    make_server("127.0.0.1", port, application, handler_class=Quiet).serve_forever()
