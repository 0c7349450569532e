"""Server-sent events (WHATWG HTML, section 9.2), by which a page of the admin follows what happens.

`watch_page` and `console_page` bring the reports.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from functools import partial
from time import monotonic

from asgiref.sync import sync_to_async
from django.contrib.auth import get_user
from django.db import Error as DatabaseError
from django.db import connections
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse

from proxy.exceptions import Unavailable
from proxy.reports import Report

CHECK = 60.0  # seconds after which it is looked whether the page's user may still see this

TYPE = "text/event-stream"

BEGUN = b"retry: 1000\n\n"
"""The page knows that it is connected, and if it isn't any more comes back after so many milliseconds."""
ALIVE = b":\n\n"
"""A comment."""


def answer(request: HttpRequest, permission: str, found: AsyncIterable[Report | None]) -> StreamingHttpResponse:
    """The answer of a view: each report as one event, and a comment for None.

    Until there are no more, the page goes, or its user has logged out or lost the permission.
    """
    # This request's thread lives as long as the stream; its connection to the database needn't.
    connections.close_all()
    events = _events(found, partial(_is_allowed, request, permission))
    # nginx, which else would collect the answer, knows the last header.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingHttpResponse(events, content_type=TYPE, headers=headers)


def refusal(error: Unavailable) -> HttpResponse:
    """One event, which says why there is nothing to follow. A page can't see another answer than a stream."""
    return HttpResponse(_event(refused(error)), content_type=TYPE)


def refused(error: Exception) -> Report:
    """The last report of a stream that the page needn't ask for again."""
    return {"what": "refused stream", "reason": str(error)}


async def _events(found: AsyncIterable[Report | None], is_allowed: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
    yield BEGUN
    check_at = monotonic() + CHECK
    async for report in found:
        if monotonic() >= check_at:
            check_at = monotonic() + CHECK
            if not await sync_to_async(is_allowed)():
                return
        yield _event(report) if report else ALIVE


def _event(report: Report) -> bytes:
    return f"data: {json.dumps(report)}\n\n".encode()


def _is_allowed(request: HttpRequest, permission: str) -> bool:
    """Asked again: not what was true when the stream began."""
    again = HttpRequest()
    again.session = type(request.session)(request.session.session_key)
    try:
        user = get_user(again)
        return bool(getattr(user, "is_staff", False) and user.has_perm(permission))
    except DatabaseError:  # the page will ask anew, and then be told
        return False
    finally:
        connections.close_all()
