"""GET {path.sessions}/KEY?watch: what goes on in a session, as it happens, one JSON object a line.

`reconcile` hands such requests on. Answers are a stream without an end; a caller that doesn't read loses reports, and
holds up nothing.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from urllib.parse import parse_qsl

from django.http import StreamingHttpResponse

from proxy import conf, protocol
from proxy.access import admit, check_addressee
from proxy.exceptions import ApiError, Forbidden, MethodNotAllowed
from proxy.handlers import ClientHungUp, ProxyRequest
from proxy.watching import Watcher

CONTENT_TYPE = "application/x-ndjson"


def is_wanted(request: ProxyRequest) -> bool:
    """Is this a request to watch?"""
    return "watch" in _query(request)


async def watch(request: ProxyRequest, key: str) -> StreamingHttpResponse:
    """The view. Raises ApiError."""
    contents = "contents" in _query(request)
    _check(request, key, contents)
    if request.method != "GET":
        raise MethodNotAllowed("GET")
    protocol.check_keys([key])
    check_addressee(request.scope)
    watcher = await Watcher.opened(key, contents)
    # nginx, which else would collect the answer, knows the header.
    return StreamingHttpResponse(
        _lines(request, key, contents, watcher), content_type=CONTENT_TYPE, headers={"X-Accel-Buffering": "no"}
    )


def _check(request: ProxyRequest, key: str, contents: bool) -> None:
    """May it be seen? A token shows who is connected and what goes on, but not what is said."""
    options = conf.options()
    grant = admit(request.scope, options)
    if grant:
        grant.check("list", [key])
        if contents:
            raise Forbidden("not allowed: contents need one of EKBO_API_KEYS, found a token")
    if contents and not options.watch_contents:
        raise Forbidden("not allowed: contents aren't shown, EKBO_WATCH_CONTENTS is off")


async def _lines(request: ProxyRequest, key: str, contents: bool, watcher: Watcher) -> AsyncIterator[bytes]:
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        async with contextlib.aclosing(watcher.reports(gone)) as found:
            async for report in found:
                yield json.dumps(report).encode() + b"\n" if report else b"\n"
                _check(request, key, contents)  # a token may end meanwhile
    except ApiError:  # which ends the answer; whoever asks again hears why
        return
    finally:
        gone.cancel()


async def _hung_up(request: ProxyRequest) -> None:
    with contextlib.suppress(ClientHungUp):
        while True:
            await request.read_piece()


def _query(request: ProxyRequest) -> dict[str, str]:
    # Not request.GET, which raises for a query of very many parameters.
    return dict(parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True))
