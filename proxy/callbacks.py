"""The proxy's requests to the backend: connect, establish, receive, close. One builder, one HTTP client.

The consumer calls these; see the contract's "GET connect" and "Callbacks". Everything raises CallbackError when the
backend can't be reached, is too slow, or answers what the contract doesn't allow.
"""

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from proxy import reload, signatures, taps, tracing
from proxy.ca_file import trust
from proxy.clock import new_event
from proxy.conf import Options, options
from proxy.counted import counted
from proxy.dial import Tcp
from proxy.exceptions import CallbackError, ConnectRefused, HttpError, HungUp, NoBackendAnswer, Unreachable
from proxy.forwarding import TextHeaders, callback_query, set_headers
from proxy.http_client import HttpClient
from proxy.http_connection import Answer
from proxy.http_request import Template, place_of
from proxy.protocol import Frame, is_session_key, make_frame
from proxy.upstream import upstreams

MAX_ANSWER_SIZE = 64 * 1024  # bytes of a connect answer's body
KINDS = ("connect", "establish", "receive", "close")
EVENT_ID = "X-Kuiperbelt-Event-Id"
CONNECTION = "X-Kuiperbelt-Connection"

# What a refused client gets to see of the backend's headers.
_RELAYED = (b"content-type", b"retry-after", b"www-authenticate")


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
    """The requests of one event loop."""

    def __init__(self, config: Options) -> None:
        self._options = config
        self._upstreams = upstreams(config)
        self._tracer = tracing.tracer()
        urls = {kind: getattr(config, f"{kind}_callback") for kind in KINDS}
        self._places = {kind: place_of(url) for kind, url in urls.items() if url}
        tls = trust(config.callback_ca) if any(place.tls for place in self._places.values()) else None
        # Connections of its own for each kind, so that a callback that hangs doesn't keep the others waiting for one.
        self._clients = {
            kind: HttpClient(Tcp(place.host, place.port, tls if place.tls else None))
            for kind, place in self._places.items()
        }
        self.sign_with(config.signing_keys)

    def sign_with(self, keys: Sequence[str]) -> None:
        """Sign callbacks with these from now on; with none, don't."""
        self._secrets = [signatures.secret_bytes(key) for key in keys]
        # proxy_set_header comes last, but for the signature; there is always a Host.
        changes = [(name, value) for name, value in self._options.proxy_set_header if value or name.lower() != "host"]
        if keys:
            changes += [(name, "") for name in signatures.NAMES]
        self._replaced = frozenset(name.lower() for name, _ in changes)
        self._templates = {
            kind: Template(
                "GET" if kind == "connect" else "POST",
                set_headers([("Host", place.authority), ("Accept-Encoding", "identity")], changes),
            )
            for kind, place in self._places.items()
        }

    async def shut_down(self) -> None:
        for client in self._clients.values():
            await client.shut_down()
        if self._tracer:
            await self._tracer.stop()

    async def connect(self, headers: TextHeaders, query: bytes, offered: list[str]) -> Accepted:
        """Ask whether a client may connect.

        `headers` are the client's with the proxy's own, `offered` its subprotocols. Raises ConnectRefused with the
        backend's answer, CallbackError for 502 (contract: GET connect 3).
        """
        text = callback_query(self._places["connect"].query, query)
        answer = await self._request("connect", text, headers, None, MAX_ANSWER_SIZE)
        status, body = answer.status, answer.body
        if status < 200 or 300 <= status < 400:
            raise CallbackError(f"connect: expected a final answer, found status {status}")
        coding = answer.get(b"content-encoding")
        if coding is not None and coding.lower() != "identity":
            raise CallbackError(f"connect: expected a plain body, found Content-Encoding {coding}")
        if status != 200:
            relayed = [
                (name, value.encode(errors="surrogateescape"))
                for name in _RELAYED
                if (value := answer.get(name)) is not None
            ]
            raise ConnectRefused(status, body, relayed, f"the backend answered {status}")
        keys = answer.all(self._options.session_header_name)
        if len(keys) != 1 or not is_session_key(keys[0]):
            found = f"{len(keys)} of them" if len(keys) != 1 else "a malformed one"
            raise CallbackError(f"connect: expected one session key in {self._options.session_header}, found {found}")
        subprotocol = answer.get(b"sec-websocket-protocol")
        if subprotocol is not None and subprotocol not in offered:
            raise CallbackError(f"connect: expected a subprotocol that the client offered, found {subprotocol!r}")
        return Accepted(keys[0], _frame(answer) if body else None, subprotocol)

    async def establish(self, session: Session) -> None:
        await self._post("establish", session)

    async def receive(self, session: Session, frame: Frame) -> Frame | None:
        """Hand a client's frame over; the frame to answer with, if receive_reply is on and the backend gave one."""
        answer = await self._post(
            "receive", session, [("Content-Type", frame.content_type)], frame.encode(), self._options.max_body_size
        )
        return _frame(answer) if answer and answer.body and self._options.receive_reply else None

    async def close(self, session: Session, code: int, reason: str) -> None:
        """Tell the end; the event's id is the same however often, and by whomever, it is told."""
        headers = [("X-Kuiperbelt-Close-Code", str(code)), ("X-Kuiperbelt-Close-Reason", reason)]
        await self._post("close", session, headers, event_id=uuid.uuid5(uuid.UUID(session.connection), "close"))

    def wants(self, name: str) -> bool:
        """Is this callback configured?"""
        return name in self._places

    async def _post(
        self,
        name: str,
        session: Session,
        headers: TextHeaders | None = None,
        body: bytes = b"",
        limit: int = MAX_ANSWER_SIZE,
        event_id: uuid.UUID | None = None,
    ) -> Answer | None:
        """The backend's 200; None: this callback isn't configured."""
        if name not in self._places:
            return None
        sent = [
            (self._options.session_header, session.key),
            ("X-Kuiperbelt-Endpoint", session.endpoint),
            (CONNECTION, session.connection),
            (EVENT_ID, str(event_id) if event_id else new_event()),
            *(headers or ()),
        ]
        answer = await self._request(name, self._places[name].query, sent, body, limit)
        if answer.status != 200:
            raise CallbackError(f"{name}: expected status 200, found {answer.status}")
        return answer

    async def _request(self, name: str, query: str, headers: TextHeaders, body: bytes | None, limit: int) -> Answer:
        """One exchange, told to watchers if there are any, and its span if it is traced."""
        if not (self._tracer or taps.live):
            return await self._in_turn(name, query, headers, body, limit)
        exchange = (self._traced if self._tracer else self._in_turn)(name, query, headers, body, limit)
        if tap := taps.live.get(dict(headers).get(CONNECTION, "")):
            exchange = tap.callback(name, body or b"", exchange)
        return await exchange

    async def _traced(self, name: str, query: str, headers: TextHeaders, body: bytes | None, limit: int) -> Answer:
        assert self._tracer
        with self._tracer.callback(name, dict(headers).get(CONNECTION, "")) as traced:
            answer = await self._in_turn(name, query, set_headers(headers, traced.headers), body, limit)
            traced.answered(answer.status)
            return answer

    async def _in_turn(self, name: str, query: str, headers: TextHeaders, body: bytes | None, limit: int) -> Answer:
        """One exchange, when it is its turn. Raises BackendBusy when it isn't made at all."""
        timeout = self._options.callback_timeout or None
        if upstream := self._upstreams.get(name):
            async with upstream.turn(name) as waited:
                left = timeout - waited if timeout else None
                return await counted(name, self._ask(name, query, headers, body, limit, left))
        return await counted(name, self._ask(name, query, headers, body, limit, timeout))

    async def _ask(
        self, name: str, query: str, headers: TextHeaders, body: bytes | None, limit: int, timeout: float | None
    ) -> Answer:
        """One exchange, body included, inside callback.timeout."""
        sent = headers
        if self._replaced:
            sent = [(key, value) for key, value in headers if key.lower() not in self._replaced]
        if self._secrets:
            event_id = dict(headers).get(EVENT_ID) or new_event()  # a connect is no event
            sent = [*sent, *signatures.signed(self._secrets, event_id, int(time.time()), body or b"")]
        path = self._places[name].path
        try:
            request = self._templates[name].request(f"{path}?{query}" if query else path, sent, body)
            answer = await self._clients[name].exchange(request, limit, timeout)
        except TimeoutError:
            expected = f"an answer within {self._options.callback_timeout:g}s"
            raise NoBackendAnswer(f"{name}: expected {expected}, found none") from None
        except (HttpError, ValueError) as error:
            # Malformed answers are some that a client may provoke, so they mustn't open the breaker for all.
            kind = NoBackendAnswer if isinstance(error, (Unreachable, HungUp)) else CallbackError
            raise kind(f"{name}: expected an HTTP answer, found: {error}") from None
        if len(answer.body) > limit:
            if answer.status == 200:
                raise CallbackError(f"{name}: expected at most {limit} bytes of body, found more")
            answer.body = answer.body[:limit]  # a refusal is relayed as far as it goes
        return answer


def _frame(answer: Answer) -> Frame:
    try:
        return make_frame(answer.body, answer.get(b"content-type") or "")
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
