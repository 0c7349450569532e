"""The API for backends and monitoring: /send, /close, /ping, /ready, /stats, and the plain-HTTP side of /connect.

Each view checks who asks, parses, calls `delivery`, and renders. Served by `handlers.ProxyHandler`, which also answers
for the ApiErrors that they raise.
"""

from urllib.parse import parse_qsl

from django.http import HttpResponse

from proxy import conf, delivery, protocol, pushes, registry
from proxy.access import check_addressee
from proxy.drain import drain
from proxy.handlers import ProxyRequest
from proxy.pushes import Head, Push
from proxy.stats import Stats, stats

_TALLIES = pushes.tallies("view")

# The answer of nearly every request; nothing changes a response after its view.
_OK = HttpResponse(protocol.OK_BODY, content_type=protocol.JSON)


async def send(request: ProxyRequest) -> HttpResponse:
    """POST {path.send}: a frame for each named session."""
    return await _push(request, pushes.send)


async def close(request: ProxyRequest) -> HttpResponse:
    """POST {path.close}: a last frame, if there is a body, then Close, for each named session."""
    return await _push(request, pushes.close)


async def _push(request: ProxyRequest, push: Push) -> HttpResponse:
    options = conf.options()
    head = Head(request.scope["headers"], options.session_header_name)
    keys = head.admitted_keys(request.scope, options, push)
    check_addressee(request.scope)
    body = await request.read_body(options.max_body_size)
    done = await delivery.end_of(await push(keys, body, head))
    status, content = _TALLIES[push].answer(done, keys)
    if content is protocol.OK_BODY:
        return _OK
    return HttpResponse(content, status=status, content_type=protocol.JSON)


async def connect(request: ProxyRequest) -> HttpResponse:
    """{path.connect} without a WebSocket handshake (contract: GET connect 1)."""
    stats.total_connections += 1
    stats.connect_errors += 1
    stats.add(Stats.connects["bad_request"])
    return HttpResponse(
        "this is a WebSocket: expected a GET with Upgrade: websocket\n",
        status=426,
        content_type="text/plain; charset=utf-8",
        headers={"Upgrade": "websocket", "Connection": "Upgrade"},
    )


async def ping(request: ProxyRequest) -> HttpResponse:
    """{path.ping}, any method: the process serves requests."""
    return _OK


async def ready(request: ProxyRequest) -> HttpResponse:
    """{path.ready}, any method: 503, with the reasons, while the process can't do all its work.

    Without the database it can do its work, and so can no other node, so that is said but not refused.
    """
    degraded = await registry.start(request.scope)
    problems = (await delivery.start()).problems()
    if drain.begun:
        problems = [*problems, "shutting down"]
    if not problems and not degraded:
        return _OK
    if not problems:
        body = protocol.json_body({"degraded": degraded, "result": "OK"})
        return HttpResponse(body, content_type=protocol.JSON)
    problems = [*problems, *degraded]
    return HttpResponse(protocol.refusal_body(*problems), status=503, content_type=protocol.JSON)


async def show_stats(request: ProxyRequest) -> HttpResponse:
    """GET {path.stats}: JSON, or with ?format=tsv|txt|text lines of NAME, VALUE, EPOCH; ?format=full: all counters."""
    # Not request.GET, which raises for a query of very many parameters.
    query = dict(parse_qsl(request.scope["query_string"].decode("latin-1")))
    if query.get("format") in ("tsv", "txt", "text"):
        return HttpResponse(stats.as_tsv(), content_type="text/plain")
    content = stats.as_full_json() if query.get("format") == "full" else stats.as_json()
    return HttpResponse(content, content_type="application/json")
