"""The API by which a backend repairs its own table of sessions: {path.sessions}, and one session below it.

`handlers` serves these views. They ask the registry in a thread of their own, so that a slow database, or a long
answer, holds up nothing but them.
"""

import asyncio
import base64
import json
import uuid
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from django.db import close_old_connections
from django.http import HttpResponse, StreamingHttpResponse

from proxy import conf, delivery, live_sessions, protocol, registry, watch_stream
from proxy.access import admit
from proxy.database import DATABASE_ERRORS
from proxy.exceptions import (
    BadRequest,
    ClusterUnreachable,
    DeliveryError,
    MethodNotAllowed,
    SessionNotFound,
    Unavailable,
)
from proxy.handlers import ProxyRequest
from proxy.live_sessions import Absent, Entry
from proxy.models import Session
from proxy.tokens import Grant

MAX_KEYS = 10_000
"""Sessions that one request may ask about."""
MAX_BODY_SIZE = 4 << 20  # bytes: room for as many keys of any length
PAGE_SIZE = 1000
MAX_PAGE_SIZE = 10_000
QUERY_LIMIT = 5.0  # seconds
MAX_WAITING = 100  # questions; over that the answer is 503 at once

T = TypeVar("T")

_waiting = 0


async def sessions(request: ProxyRequest) -> HttpResponse:
    """POST {path.sessions}: which of the named keys are alive. GET: a page of all live sessions."""
    grant = await _admit(request)
    if request.method == "POST":
        keys = await _keys(request)
        if grant:
            grant.check("list", keys)
        alive, gone = await _judgement(keys)
        return await _answer(lambda: {"alive": alive, "gone": gone})
    if request.method != "GET":
        raise MethodNotAllowed("GET or POST")
    # Not request.GET, which raises for a query of very many parameters.
    query = dict(parse_qsl(request.scope["query_string"].decode("latin-1")))
    after, size = _cursor(query.get("cursor", "")), _size(query.get("limit", str(PAGE_SIZE)))
    if grant:
        grant.check("list")
    prefix = grant.prefix if grant else ""
    rows = await _ask(lambda: live_sessions.after(after, size + 1, prefix))
    absent = await _absent([], rows[:size])
    cursor = _cursor_after(rows[size - 1]) if len(rows) > size else None
    return await _answer(lambda: {"sessions": live_sessions.entries(rows[:size], absent), "cursor": cursor})


async def session(request: ProxyRequest) -> HttpResponse | StreamingHttpResponse:
    """GET {path.sessions}/KEY: its connections, one but for duplicate_session: join; 404 if there is none.

    With ?watch: what goes on there (`watch_stream`).
    """
    key = request.scope["path"].removeprefix(conf.options().sessions_path.rstrip("/") + "/")
    if watch_stream.is_wanted(request):
        return await watch_stream.watch(request, key)
    grant = await _admit(request)
    if request.method not in ("GET", "HEAD"):
        raise MethodNotAllowed("GET")
    _check_keys([key])
    if grant:
        grant.check("list", [key])
    alive, gone = await _judgement([key])
    if gone:
        body = protocol.failures_body([protocol.Failure(key, SessionNotFound.text)], "NG")
        return HttpResponse(body, status=404, content_type=protocol.JSON)
    return await _answer(lambda: {"sessions": alive})


async def _admit(request: ProxyRequest) -> Grant | None:
    options = conf.options()
    grant = admit(request.scope, options)
    if not options.registry:
        raise Unavailable("the registry of sessions is off (EKBO_REGISTRY)")
    await registry.start(request.scope)  # daphne's begins with the first that needs it
    return grant


async def _keys(request: ProxyRequest) -> list[str]:
    """The keys in the body, a JSON list, or, if it is empty, in the session header."""
    options = conf.options()
    body = await request.read_body(max(MAX_BODY_SIZE, options.max_body_size))
    if not body:
        return protocol.session_keys(protocol.header_values(request.scope["headers"], options.session_header_name))
    try:
        keys = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f'expected a JSON list of session keys, like ["bob","eve"]; {str(error)[:100]}') from None
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise BadRequest('expected a JSON list of session keys, like ["bob","eve"]; found other JSON')
    if len(keys) > MAX_KEYS:
        raise BadRequest(f"too many session keys: expected at most {MAX_KEYS}, found {len(keys)}")
    _check_keys(keys)
    return keys


def _check_keys(keys: Iterable[str]) -> None:
    for position, key in enumerate(keys, 1):
        if not protocol.is_session_key(key):
            expected = "1-256 visible ASCII characters without comma"
            raise BadRequest(f"session key {position} is malformed: expected {expected}")


def _cursor(text: str) -> uuid.UUID:
    """What `_page` wrote, or, for the first page, nothing."""
    try:
        return uuid.UUID(bytes=base64.b64decode(f"{text}==", b"-_", validate=True) if text else bytes(16))
    except ValueError:
        raise BadRequest(f"cursor: expected one that an answer named, found {text[:60]!r}") from None


def _size(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= MAX_PAGE_SIZE:
        return int(text)
    raise BadRequest(f"limit: expected a whole number from 1 to {MAX_PAGE_SIZE}, found {text[:20]!r}")


def _cursor_after(row: Session) -> str:
    return base64.urlsafe_b64encode(row.connection.bytes).decode().rstrip("=")


async def _judgement(keys: Sequence[str]) -> tuple[list[Entry], list[str]]:
    rows = await _ask(lambda: live_sessions.by_keys(keys))
    absent = await _absent(keys, rows)
    return await _ask(lambda: live_sessions.judgement(keys, rows, absent))


async def _absent(keys: Sequence[str], rows: Sequence[Session]) -> Absent:
    """Who of these, and of those in the rows, isn't there, whatever the registry says. Raises Unavailable."""
    known = {row.key for row in rows}
    try:
        missing = await delivery.missing(list(known.union(keys)))
    except DeliveryError:
        try:  # where the registry knows somebody it is believed
            missing = await delivery.missing(list(set(keys) - known))
        except DeliveryError:
            raise Unavailable(ClusterUnreachable.text) from None
    found = registry.running()
    # While the registry works it knows better of other processes, which may be cut off from Redis alone.
    everywhere = conf.options().clustered and found is not None and bool(found.problem)
    return Absent(missing, found.node if found else None, everywhere)


async def _answer(make: Callable[[], dict[str, Any]]) -> HttpResponse:
    """The answer, made in the thread too, for it may be large."""
    body = await _ask(lambda: protocol.json_body({**make(), "result": "OK"}) + b"\n")
    return HttpResponse(body, content_type=protocol.JSON)


async def _ask(question: Callable[[], T]) -> T:
    """The answer to a question to the database. Raises Unavailable."""
    global _waiting
    deadline = monotonic() + QUERY_LIMIT

    def answer() -> T:
        if monotonic() > deadline:  # nobody waits for it any more
            raise TimeoutError
        try:
            return question()
        finally:
            close_old_connections()

    found = registry.running()
    if found is None:
        raise Unavailable("the process ends")
    if _waiting >= MAX_WAITING:
        raise Unavailable(f"expected at most {MAX_WAITING} requests at once about sessions, found more")
    asked = asyncio.ensure_future(found.ask(answer))
    _waiting += 1
    asked.add_done_callback(_answered)
    try:
        return await asyncio.wait_for(asyncio.shield(asked), QUERY_LIMIT)
    except TimeoutError:
        raise Unavailable(f"the database didn't answer within {QUERY_LIMIT:g} s") from None
    except DATABASE_ERRORS as error:  # its text, which may say more than a backend should know, is in the log
        raise Unavailable(f"the database can't be asked ({type(error).__name__})") from None


def _answered(asked: "asyncio.Future[Any]") -> None:
    global _waiting
    _waiting -= 1
    asked.cancelled() or asked.exception()  # it is no mistake if nobody waits for it any more
