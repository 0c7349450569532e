"""A request as it goes over the wire (RFC 9112 section 3). Pure rules. Used by `callbacks` and `remote`."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from proxy.forwarding import TextHeaders


@dataclass(frozen=True, slots=True)
class Place:
    """What of a URL like http://backend:8000/path?query belongs where."""

    tls: bool
    host: str
    port: int
    authority: str
    """For the Host header: the port only if it isn't the scheme's."""
    path: str
    query: str


def place_of(url: str) -> Place:
    """Of a URL that the configuration has checked: ASCII, http or https, no user, no fragment."""
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    host = parts.hostname or ""
    usual = 443 if tls else 80
    port = parts.port or usual
    name = f"[{host}]" if ":" in host else host
    return Place(tls, host, port, name if port == usual else f"{name}:{port}", parts.path or "/", parts.query)


class Template:
    """What the requests of one kind have in common: their method and some headers, Host among them."""

    def __init__(self, method: str, common: TextHeaders) -> None:
        self._method = method
        self._common = [f"{name}: {value}" for name, value in common]

    def request(self, target: str, headers: TextHeaders, body: bytes | None = None) -> bytes:
        """A whole request with these headers more; None as body: without Content-Length.

        Raises ValueError for what would end a line or the head too early (RFC 9112 section 11), and for text that
        UTF-8 can't express.
        """
        lines = [f"{self._method} {target} HTTP/1.1", *self._common, *[f"{name}: {value}" for name, value in headers]]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join(lines)
        if head.count("\n") >= len(lines) or head.count("\r") >= len(lines) or "\0" in head or " " in target:
            raise ValueError("what can't be sent: CR, LF or NUL in a header, or a space in the target")
        return b"%b\r\n\r\n%b" % (head.encode(), body or b"")
