"""Backend to client: the proxy's /send and /close, called with nothing but blocking `http.client`."""

import http.client
import json
import logging
import urllib.parse
from collections.abc import Iterable, Sequence

log = logging.getLogger(__name__)

KEYS_PER_REQUEST = 200
"""The proxy takes 1,000 keys in one request; daphne's HTTP parser stops at 500 header lines or 16 KB of them."""

TIMEOUT = 10.0  # seconds; the proxy answers within 5, even for a client that doesn't read
GONE = frozenset({"kuiperbelt: session is not found", "kuiperbelt: session is closed"})


class ProxyError(Exception):
    """The proxy could not be reached, or refused the whole request."""


class Proxy:
    """The proxy as the backend sees it.

    `url` comes from configuration, never from the X-Kuiperbelt-Endpoint header: whoever reaches this
    application directly could name an endpoint of their own there.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"expected the proxy's address as http://host:port but got {url!r}")
        self._host, self._port = parts.hostname, parts.port or 80
        self._api_key = api_key

    def send(self, keys: Sequence[str], frame: str) -> set[str]:
        """Send one text frame to all `keys`; gives the keys of sessions that are gone. Raises ProxyError."""
        return self._post("/send", keys, frame, {})

    def close(self, keys: Sequence[str], code: int, reason: str) -> set[str]:
        """Close all `keys`; gives the keys of sessions that were gone already. Raises ProxyError."""
        headers = {"X-Kuiperbelt-Close-Code": str(code), "X-Kuiperbelt-Close-Reason": reason}
        return self._post("/close", keys, "", headers)

    def _post(self, path: str, keys: Sequence[str], body: str, headers: dict[str, str]) -> set[str]:
        gone: set[str] = set()
        connection = http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT)
        try:
            for start in range(0, len(keys), KEYS_PER_REQUEST):
                gone |= self._post_chunk(connection, path, keys[start : start + KEYS_PER_REQUEST], body, headers)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ProxyError(f"POST {path} for {len(keys)} sessions failed: {error}") from error
        finally:
            connection.close()
        return gone

    def _post_chunk(
        self,
        connection: http.client.HTTPConnection,
        path: str,
        keys: Iterable[str],
        body: str,
        headers: dict[str, str],
    ) -> set[str]:
        payload = body.encode()
        connection.putrequest("POST", path)
        connection.putheader("Content-Type", "text/plain; charset=utf-8")
        connection.putheader("Content-Length", str(len(payload)))
        if self._api_key:
            connection.putheader("Authorization", f"Bearer {self._api_key}")
        for name, value in headers.items():
            connection.putheader(name, value)
        for key in keys:
            connection.putheader("X-Kuiperbelt-Session", key)
        connection.endheaders(payload)
        response = connection.getresponse()
        answer = json.loads(response.read())
        errors = answer.get("errors", [])
        if answer.get("result") != "OK":
            raise ValueError(f"expected the result OK but got status {response.status} with {errors}")
        for error in errors:
            if error["error"] not in GONE:
                log.warning("a frame was not delivered: %s", error["error"])
        return {error["session"] for error in errors if error["error"] in GONE}
