"""Calls the backend as the proxy would, and says what a failure most probably means, in plain words.

Used by `checkbackend` and `doctor`.
"""

import re
import uuid
from collections.abc import AsyncGenerator, Awaitable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

from proxy import callbacks, conf, forwarding, protocol
from proxy.conf import Options
from proxy.endpoint import endpoint_for
from proxy.exceptions import (
    AnswerCut,
    BadAnswer,
    CallbackError,
    ConnectRefused,
    HostUnknown,
    HungUp,
    TlsFailed,
    Unreachable,
)

TEST = "kuiperbelt-check"
"""What a backend knows these calls by: a parameter of the query, the key when there is none, and the frame."""

# Tried in this order: the first that fits.
_CAUSES: tuple[tuple[type[Exception], str], ...] = (
    (HostUnknown, "there is no host {host}, as far as this machine knows"),
    (
        TlsFailed,
        "{place} doesn't speak TLS, or has a certificate that this machine doesn't trust ({why}); "
        "callback.ca names authorities of your own",
    ),
    (Unreachable, "nobody answers at {place} ({why}): does the backend run, and may this machine reach it?"),
    (HungUp, "{place} hung up without an answer ({why}): does a worker crash there, or is it HTTPS?"),
    (
        TimeoutError,
        "no whole answer within {limit:g} s (callback.timeout): are all workers busy, or on kept connections?",
    ),
    (AnswerCut, "{place} hung up in the middle of its answer"),
    (BadAnswer, "what {place} answers isn't HTTP ({why}): is it another service's port, or HTTPS?"),
)
_STATUSES = {
    400: "the backend doesn't like the request; if it checks Host, it must allow {host}",
    401: "the backend wants credentials; proxy_set_header can set Authorization",
    403: "the backend refuses: is it a framework's CSRF protection, which must be off for this path, or the signature?",
    404: "the backend has nothing at {path}",
    405: "the backend doesn't take {method} at {path}",
    429: "the backend limits requests; it must not limit the proxy's",
    502: "what is in front of the backend can't reach it",
    503: "the backend, or what is in front of it, is down or too busy",
    504: "what is in front of the backend waited for it in vain",
}


@dataclass(frozen=True, slots=True)
class Call:
    """What came of one callback."""

    callback: str
    ok: bool | None
    """None: it is off."""
    seconds: float
    url: str
    text: str
    key: str
    """The session's: the backend's word, or TEST."""
    refused: bool = False
    """The backend works, but doesn't let this client in."""
    silent: bool = False
    """No answer within callback.timeout."""


async def calls(names: Sequence[str], query: bytes, headers: Sequence[tuple[bytes, bytes]]) -> AsyncGenerator[Call]:
    """Call these callbacks for a client with this query and these headers, and for the session that it is."""
    options = conf.options()
    client = callbacks.client()
    connection, endpoint = str(uuid.uuid4()), endpoint_for({}, options)
    key = TEST

    async def connect() -> str:
        nonlocal key
        sent = [
            *forwarding.client_headers(headers, options.session_header_name),
            *forwarding.peer(headers, "127.0.0.1", "ws", ()).headers(),
            ("X-Kuiperbelt-Endpoint", endpoint),
            ("X-Kuiperbelt-Connection", connection),
        ]
        accepted = await client.connect(sent, query, [])
        key = accepted.key
        size = accepted.first_frame.size if accepted.first_frame else 0
        return f"lets the client in as {key}" + (f", with a first frame of {size} bytes" if size else "")

    def call(name: str) -> Awaitable[Any]:
        session = callbacks.Session(key, connection, endpoint)
        if name == "connect":
            return connect()
        if name == "establish":
            return client.establish(session)
        if name == "receive":
            return client.receive(session, protocol.make_frame(TEST.encode(), ""))
        return client.close(session, 1000, "client")

    for name in [name for name in callbacks.KINDS if name in names]:
        url: str = getattr(options, f"{name}_callback")
        ok, text, seconds, refused, silent = None, "", 0.0, False, False
        if url:
            began = perf_counter()
            try:
                said = await call(name)
                ok, text = True, said if isinstance(said, str) else ""
            except (CallbackError, ConnectRefused) as error:
                ok, text = False, explain(name, url, error, options)
                refused = isinstance(error, ConnectRefused) and error.status in (401, 403)
                silent = isinstance(error.__context__, TimeoutError)
            seconds = perf_counter() - began
        # What stands after the question mark may be a secret.
        yield Call(name, ok, seconds, url.partition("?")[0], text, key, refused, silent)


def explain(name: str, url: str, error: CallbackError | ConnectRefused, options: Options) -> str:
    """What is wrong with the callback `name` at `url`, and what to do about it."""
    parts = urlsplit(url)
    facts = {
        "place": parts.netloc,
        "host": parts.hostname,
        "path": parts.path or "/",
        "method": "GET" if name == "connect" else "POST",
        "limit": options.callback_timeout,
    }
    if isinstance(error, ConnectRefused):
        hint = _of_status(error.status).format(**facts)
        if error.status in (401, 403):
            hint = (
                f"status {error.status}: the backend doesn't let this client in; --query and --header can say who it is"
            )
        return hint + _its_words(error.body)
    # The HTTP client's own error says more than may stand in a log.
    cause = error.__context__
    for kind, text in _CAUSES:
        if isinstance(cause, kind):
            return text.format(why=cause, **facts)
    if found := re.search(r"found (?:status )?(\d{3})$", str(error)):
        return _of_status(int(found[1])).format(**facts)
    return str(error)


def _its_words(body: bytes) -> str:
    """The first line of a refusal, unless it is a page's."""
    first = body[:4096].decode(errors="replace").strip().partition("\n")[0]
    return f". It says: {first[:100]}" if first and not first.startswith("<") else ""


def _of_status(status: int) -> str:
    if 300 <= status < 400:
        hint = "a redirect, which the proxy doesn't follow; configure the URL that it leads to"
    elif status >= 500:
        hint = _STATUSES.get(status, "the backend failed; its own log says why")
    else:
        hint = _STATUSES.get(status, "expected 200")
    return f"status {status}: {hint}"
