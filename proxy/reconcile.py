"""The API by which a backend repairs its own table of sessions: {path.sessions}, and one session below it.

`handlers` serves these views. They ask the registry in a thread of their own, so that a slow database, or a long
answer, holds up nothing but them.
"""

import asyncio
import base64
import json
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import islice
from time import monotonic
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from django.db import close_old_connections
from django.db.models.functions import Left
from django.http import HttpResponse, StreamingHttpResponse

from proxy import conf, delivery, protocol, registry, watch_stream
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
from proxy.models import Node, Session
from proxy.tokens import Grant

MAX_KEYS = 10_000
"""Sessions that one request may ask about."""
MAX_BODY_SIZE = 4 << 20  # bytes: room for as many keys of any length
PAGE_SIZE = 1000
MAX_PAGE_SIZE = 10_000
QUERY_LIMIT = 5.0  # seconds
AT_ONCE = 1000  # keys in one query
MAX_WAITING = 100  # questions; over that the answer is 503 at once

Entry = dict[str, str | None]
T = TypeVar("T")

_waiting = 0


async def sessions(request: ProxyRequest) -> HttpResponse:
    """POST {path.sessions}: which of the named keys are alive. GET: a page of all live sessions."""
    grant = await _admit(request)
    if request.method == "POST":
        keys = await _keys(request)
        if grant:
            grant.check("list", keys)
        alive = await _ask(lambda: _find(keys))
        # A session that the registry doesn't know yet must not be called gone.
        gone = await _missing([key for key in dict.fromkeys(keys) if key not in alive])
        return await _answer(lambda: _judgement(keys, alive, gone))
    if request.method != "GET":
        raise MethodNotAllowed("GET or POST")
    # Not request.GET, which raises for a query of very many parameters.
    query = dict(parse_qsl(request.scope["query_string"].decode("latin-1")))
    after, size = _cursor(query.get("cursor", "")), _size(query.get("limit", str(PAGE_SIZE)))
    if grant:
        grant.check("list")
    prefix = grant.prefix if grant else ""
    return await _answer(lambda: _page(after, size, prefix))


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
    alive = await _ask(lambda: _find([key]))
    if key not in alive and await _missing([key]):
        body = protocol.failures_body([protocol.Failure(key, SessionNotFound.text)], "NG")
        return HttpResponse(body, status=404, content_type=protocol.JSON)
    return await _answer(lambda: {"sessions": alive.get(key) or [_unregistered(key)]})


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


async def _missing(keys: Sequence[str]) -> set[str]:
    try:
        return await delivery.missing(keys) if keys else set()
    except DeliveryError:
        raise Unavailable(ClusterUnreachable.text) from None


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


# In the thread


def _entries(rows: Iterable[Session]) -> list[Entry]:
    found = list(rows)
    names = dict(Node.objects.filter(id__in={row.node_id for row in found}).values_list("id", "name"))
    return [
        {
            "session": row.key,
            "connection": str(row.connection),
            "node": names.get(row.node_id),
            "endpoint": row.endpoint,
            "since": _utc(row.connected_at),
        }
        for row in found
    ]


def _unregistered(key: str) -> Entry:
    """A session that is there, but not in the registry yet."""
    return {"session": key, "connection": None, "node": None, "endpoint": None, "since": None}


def _utc(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _live() -> Any:
    return Session.objects.filter(ended_at=None).only("key", "connection", "node_id", "endpoint", "connected_at")


def _find(keys: Sequence[str]) -> dict[str, list[Entry]]:
    """The live connections of each key that has any."""
    found: dict[str, list[Entry]] = {}
    left = iter(dict.fromkeys(keys))
    while some := list(islice(left, AT_ONCE)):
        for entry in _entries(_live().filter(key__in=some)):
            found.setdefault(str(entry["session"]), []).append(entry)
    return found


def _judgement(keys: Sequence[str], alive: dict[str, list[Entry]], gone: set[str]) -> dict[str, Any]:
    distinct = dict.fromkeys(keys)
    entries = [entry for key in distinct if key not in gone for entry in alive.get(key) or [_unregistered(key)]]
    return {"alive": entries, "gone": [key for key in distinct if key in gone]}


def _page(after: uuid.UUID, size: int, prefix: str) -> dict[str, Any]:
    """Ordered by connection: whoever is connected all the time is on exactly one page."""
    rows = _live().filter(connection__gt=after)
    if prefix:  # not key__startswith, which on SQLite doesn't tell capital letters from small ones
        rows = rows.annotate(start=Left("key", len(prefix))).filter(start=prefix)
    entries = _entries(rows.order_by("connection")[: size + 1])
    more = len(entries) > size
    cursor = None
    if more:
        entries.pop()
        cursor = base64.urlsafe_b64encode(uuid.UUID(entries[-1]["connection"]).bytes).decode().rstrip("=")
    return {"sessions": entries, "cursor": cursor}
