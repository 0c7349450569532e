"""The admin's console for developers of backends: a client by hand, in the page, beside the callbacks that it causes.

The page opens its stream, and gets a ticket with it; then it connects, and the ticket tells the process that takes the
connection where to report (`tickets`, `tapped`).
"""

from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import urlsplit

from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.models import CHANGE as CHANGED
from django.contrib.admin.models import LogEntry
from django.contrib.auth.decorators import permission_required
from django.contrib.contenttypes.models import ContentType
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import render

from proxy import event_stream, reports, tickets
from proxy.conf import options
from proxy.exceptions import Unavailable
from proxy.models import Session
from proxy.pages import POLICY
from proxy.reports import Report
from proxy.tickets import Ticket
from proxy.watch_page import CHANGE
from proxy.watching import Watcher

READY: Report = {"what": "ready"}
"""The first event: the page has the ticket, and can connect."""


@permission_required(CHANGE, raise_exception=True)
def page(request: HttpRequest) -> HttpResponse:
    """GET /admin/proxy/console/"""
    config, (name, port) = options(), _host(request)
    # The API's own listener has the admin, but no clients.
    elsewhere = config.has_api_listener and port == str(config.api_port)
    context = admin.site.each_context(request) | {
        "title": "Console",
        "path": config.connect_path,
        "port": config.port if elsewhere else "",
    }
    response = render(request, "admin/proxy/console.html", context)
    if ":" not in name:  # an IPv6 address has no place in a policy
        ports = f"connect-src 'self' ws://{name}:* wss://{name}:*"
        response["Content-Security-Policy"] = POLICY.replace("connect-src 'self'", ports)
    return response


@permission_required(CHANGE, raise_exception=True)
def stream(request: HttpRequest) -> HttpResponse | StreamingHttpResponse:
    """GET /admin/proxy/console/stream/: events of the connection that the page makes next, and the ticket for it."""
    try:
        watcher = async_to_sync(Watcher.opened)(None, True)
    except Unavailable as error:
        return event_stream.refusal(error)
    user_id: Any = request.user.pk
    LogEntry.objects.create(
        user_id=user_id,
        content_type=ContentType.objects.get_for_model(Session),
        object_repr="Console",
        action_flag=CHANGED,
        change_message="Connect as a client",
    )
    response = event_stream.answer(request, CHANGE, _follow(watcher))
    response.set_cookie(
        tickets.COOKIE,
        tickets.sign(Ticket(watcher.channel, request.get_host())),
        max_age=tickets.LIFE,
        path=options().connect_path,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Strict",
    )
    return response


async def _follow(watcher: Watcher) -> AsyncGenerator[Report | None, None]:
    """Reports of the first connection only that brings the ticket; others of the browser may bring it too."""
    yield READY
    connection = ""
    async for report in watcher.reports():
        if report:
            connection = connection or report.get("connection", "")
            if report["what"] == reports.ABSENT or report.get("connection", connection) != connection:
                continue
        yield report


def _host(request: HttpRequest) -> tuple[str, str]:
    """The name or address that the browser has asked for, and the port, which may be missing."""
    found = urlsplit(f"//{request.get_host()}")
    return found.hostname or "", str(found.port or "")
