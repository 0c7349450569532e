"""The proxy's requests to the backend: connect, establish, receive, close. One builder, one HTTP client.

The consumer calls these; see the contract's "GET connect" and "Callbacks". Everything raises CallbackError when the
backend can't be reached, is too slow, or answers what the contract doesn't allow.
"""

import asyncio
import time
import uuid
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import aiohttp
from yarl import URL

from proxy import http_client, reload
from proxy.conf import Options, options
from proxy.exceptions import CallbackError, ConnectRefused, NoBackendAnswer
from proxy.forwarding import TextHeaders, callback_query, set_headers
from proxy.http_client import Answer, exchange
from proxy.protocol import Frame, is_session_key, make_frame
from proxy.signatures import secret_bytes, signed
from proxy.stats import Stats, stats
from proxy.upstream import upstreams

MAX_ANSWER_SIZE = 64 * 1024  # bytes of a connect answer's body
KINDS = ("connect", "establish", "receive", "close")
MAX_CONNECTIONS = 512  # of each kind; a callback over that waits inside its time-out
EVENT_ID = "X-Kuiperbelt-Event-Id"
KEEP_ALIVE = 10.0  # seconds that an unused connection to a backend is kept

# What a refused client gets to see of the backend's headers.
_RELAYED = ("content-type", "retry-after", "www-authenticate")


@dataclass(frozen=True, slots=True)
class Session:
    """What the backend and the proxy call one accepted connection."""

    key: str
    connection: str
    """UUID of this connection, X-Kuiperbelt-Connection."""
    endpoint: str
    """Where the backend finds this session: X-Kuiperbelt-Endpoint."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The backend said yes to a connect."""

    key: str
    first_frame: Frame | None
    subprotocol: str | None


class Callbacks:
    """The HTTP client for one event loop."""

    def __init__(self, config: Options) -> None:
        self._options = config
        # One pool for each kind, so that a callback that hangs doesn't keep the others waiting for a connection.
        ca = config.callback_ca
        self._clients = {
            kind: http_client.client(ca, limit=MAX_CONNECTIONS, keepalive_timeout=KEEP_ALIVE) for kind in KINDS
        }
        self._upstreams = upstreams(config)
        self.sign_with(config.signing_keys)
        self._fresh = http_client.client(ca, limit=0, force_close=True)
        parts = urlsplit(config.connect_callback)
        self._connect_base = f"{parts.scheme}://{parts.netloc}{parts.path or '/'}"
        self._connect_query = parts.query
        self._urls = {
            name: URL(url)
            for name, url in (
                ("establish", config.establish_callback),
                ("receive", config.receive_callback),
                ("close", config.close_callback),
            )
            if url
        }

    def sign_with(self, keys: Sequence[str]) -> None:
        """Sign callbacks with these from now on; with none, don't."""
        self._secrets = [secret_bytes(key) for key in keys]

    async def shut_down(self) -> None:
        for client in (*self._clients.values(), self._fresh):
            await client.close()

    async def connect(self, headers: TextHeaders, query: bytes, offered: list[str]) -> Accepted:
        """Ask whether a client may connect.

        `headers` are the client's with the proxy's own, `offered` its subprotocols. Raises ConnectRefused with the
        backend's answer, CallbackError for 502 (contract: GET connect 3).
        """
        text = callback_query(self._connect_query, query)
        url = URL(f"{self._connect_base}?{text}" if text else self._connect_base, encoded=True)
        status, answer, body = await self._request("connect", url, headers, None, MAX_ANSWER_SIZE)
        if status < 200 or 300 <= status < 400:
            raise CallbackError(f"connect: expected a final answer, found status {status}")
        if answer.get("content-encoding", "identity").lower() != "identity":
            raise CallbackError(f"connect: expected a plain body, found Content-Encoding {answer['content-encoding']}")
        if status != 200:
            relayed = [
                (name.encode(), answer[name].encode(errors="surrogateescape")) for name in _RELAYED if name in answer
            ]
            raise ConnectRefused(status, body, relayed, f"the backend answered {status}")
        keys = answer.getall(self._options.session_header, [])
        if len(keys) != 1 or not is_session_key(keys[0]):
            found = f"{len(keys)} of them" if len(keys) != 1 else "a malformed one"
            raise CallbackError(f"connect: expected one session key in {self._options.session_header}, found {found}")
        subprotocol = answer.get("sec-websocket-protocol")
        if subprotocol is not None and subprotocol not in offered:
            raise CallbackError(f"connect: expected a subprotocol that the client offered, found {subprotocol!r}")
        return Accepted(keys[0], _frame(body, answer) if body else None, subprotocol)

    async def establish(self, session: Session) -> None:
        await self._post("establish", session)

    async def receive(self, session: Session, frame: Frame) -> Frame | None:
        """Hand a client's frame over; the frame to answer with, if receive_reply is on and the backend gave one."""
        body, answer = await self._post(
            "receive", session, [("Content-Type", frame.content_type)], frame.encode(), self._options.max_body_size
        )
        return _frame(body, answer) if body and self._options.receive_reply else None

    async def close(self, session: Session, code: int, reason: str) -> None:
        """Tell the end; the event's id is the same however often, and by whomever, it is told."""
        headers = [("X-Kuiperbelt-Close-Code", str(code)), ("X-Kuiperbelt-Close-Reason", reason)]
        await self._post("close", session, headers, event_id=uuid.uuid5(uuid.UUID(session.connection), "close"))

    def wants(self, name: str) -> bool:
        """Is this callback configured?"""
        return name in self._urls

    async def _post(
        self,
        name: str,
        session: Session,
        headers: TextHeaders | None = None,
        body: bytes = b"",
        limit: int = MAX_ANSWER_SIZE,
        event_id: uuid.UUID | None = None,
    ) -> tuple[bytes, Any]:
        url = self._urls.get(name)
        if url is None:
            return b"", {}
        sent = [
            (self._options.session_header, session.key),
            ("X-Kuiperbelt-Endpoint", session.endpoint),
            ("X-Kuiperbelt-Connection", session.connection),
            (EVENT_ID, str(event_id or uuid.uuid4())),
            *(headers or ()),
        ]
        status, answer, content = await self._request(name, url, sent, body, limit)
        if status != 200:
            raise CallbackError(f"{name}: expected status 200, found {status}")
        return content, answer

    async def _request(self, name: str, url: URL, headers: TextHeaders, body: bytes | None, limit: int) -> Answer:
        """One exchange, when it is its turn. Raises BackendBusy when it isn't made at all."""
        timeout = self._options.callback_timeout
        if upstream := self._upstreams.get(name):
            async with upstream.turn(name) as waited:
                left = timeout - waited if timeout else None
                return await _counted(name, self._ask(name, url, headers, body, limit, left))
        return await _counted(name, self._ask(name, url, headers, body, limit, timeout or None))

    async def _ask(
        self, name: str, url: URL, headers: TextHeaders, body: bytes | None, limit: int, timeout: float | None
    ) -> Answer:
        """One exchange, body included, inside callback.timeout; proxy_set_header last, but for the signature."""
        sent = set_headers([*headers, ("Accept-Encoding", "identity")], self._options.proxy_set_header)
        if self._secrets:
            event_id = dict(headers).get(EVENT_ID) or str(uuid.uuid4())  # a connect is no event
            # Instead of what a client may have sent under these names.
            sent = set_headers(sent, signed(self._secrets, event_id, int(time.time()), body or b""))
        method = "GET" if body is None else "POST"
        try:
            async with asyncio.timeout(timeout):
                try:
                    status, answer, content = await exchange(self._clients[name], method, url, sent, body, limit)
                except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                    if isinstance(error, aiohttp.ClientConnectorError):
                        raise
                    # A prefork backend closes kept-alive connections whenever it likes; that isn't its failure.
                    status, answer, content = await exchange(self._fresh, method, url, sent, body, limit)
        except TimeoutError:
            expected = f"an answer within {self._options.callback_timeout:g}s"
            raise NoBackendAnswer(f"{name}: expected {expected}, found none") from None
        except (aiohttp.ClientError, ValueError) as error:
            # Never the error's own text: it can hold the URL, and so the client's query.
            reason = getattr(error, "strerror", None) or getattr(error, "message", None) or ""
            raise NoBackendAnswer(f"{name}: {type(error).__name__} {str(reason)[:200]!r}") from None
        if len(content) > limit and status == 200:
            raise CallbackError(f"{name}: expected at most {limit} bytes of body, found more")
        return status, answer, content[:limit]  # a refusal is relayed as far as it goes


async def _counted(name: str, exchange: Coroutine[Any, Any, Answer]) -> Answer:
    """A callback under way, whose time and outcome are counted."""
    began, result = perf_counter(), "cancelled"
    try:
        answer = await exchange
        result = "ok" if answer[0] == 200 else "refused"
    except NoBackendAnswer:
        result = "no_answer"
        raise
    except CallbackError:
        result = "invalid"
        raise
    finally:
        stats.observe(Stats.callback_seconds[name], perf_counter() - began)
        stats.add(Stats.callbacks[name, result])
    return answer


def _frame(body: bytes, answer: Any) -> Frame:
    try:
        return make_frame(body, answer.get("content-type", ""))
    except UnicodeDecodeError:
        raise CallbackError("expected UTF-8 or Content-Type application/octet-stream, found other bytes") from None


_clients: "WeakKeyDictionary[asyncio.AbstractEventLoop, Callbacks]" = WeakKeyDictionary()


def client() -> Callbacks:
    """The running event loop's client, made when it is first needed: daphne has no start-up event."""
    loop = asyncio.get_running_loop()
    found = _clients.get(loop)
    if found is None:
        found = _clients[loop] = Callbacks(options())
        made = found
        reload.on_reload("keys that sign callbacks", lambda: made.sign_with(options().signing_keys))
    return found


async def shut_down() -> None:
    """Close the running event loop's connections to the backend."""
    found = _clients.pop(asyncio.get_running_loop(), None)
    if found:
        await found.shut_down()
