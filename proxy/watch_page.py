"""The admin's page that follows one session key live, and the stream that fills it."""

import contextlib
from collections.abc import AsyncGenerator
from urllib.parse import urlencode

from asgiref.sync import async_to_sync
from django.contrib import admin
from django.contrib.auth.decorators import permission_required
from django.core.management.base import CommandError
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.urls import reverse

from proxy import event_stream, tailing
from proxy.conf import options
from proxy.drain import drain
from proxy.exceptions import Unavailable
from proxy.models import Session
from proxy.protocol import is_session_key
from proxy.reports import Report
from proxy.staff_actions import log_entries
from proxy.watching import Watcher

VIEW, CHANGE = "proxy.view_session", "proxy.change_session"


def url(key: str) -> str:
    """Of the page for this session key."""
    return _of("watch", key)


@permission_required(VIEW, raise_exception=True)
def page(request: HttpRequest) -> HttpResponse:
    """GET /admin/proxy/watch/?key=KEY"""
    key = _key(request)
    why_not = [] if options().watch_contents else ["EKBO_WATCH_CONTENTS is off"]
    why_not += [] if request.user.has_perm(CHANGE) else ["contents are for those who may change sessions"]
    context = admin.site.each_context(request) | {
        "title": f"Watch {key}",
        "stream": _of("watch-stream", key),
        "why_not": ", and ".join(why_not),
    }
    return render(request, "admin/proxy/watch.html", context)


@permission_required(VIEW, raise_exception=True)
def stream(request: HttpRequest) -> HttpResponse | StreamingHttpResponse:
    """GET /admin/proxy/watch/stream/?key=KEY: events until the page goes. Who sees contents is in Django's log."""
    key = _key(request)
    contents = options().watch_contents and request.user.has_perm(CHANGE)
    try:
        watcher = async_to_sync(Watcher.opened)(key, contents)
    except Unavailable as error:
        return event_stream.refusal(error)
    if contents:
        live = list(Session.objects.filter(key=key, ended_at=None))
        # Nobody has the key yet, as far as is known: what its next session says is seen, too.
        log_entries(live or [Session(key=key)], request.user.pk, "Watch, with contents")
    # Without Redis a node knows of its own sessions only.
    alone = options().clustered or len(tailing.living()) < 2
    found = watcher.reports() if alone else _from_all_nodes(key, contents, watcher)
    return event_stream.answer(request, CHANGE if contents else VIEW, found)


async def _from_all_nodes(key: str, contents: bool, place: Watcher) -> AsyncGenerator[Report | None, None]:
    """As `manage.py tail` does it; `place` is only this page's among the watchers of the process."""
    try:
        async with contextlib.aclosing(tailing.through_nodes(key, contents)) as found:
            async for report in found:
                if drain.begun or drain.replaced:  # the page asks another process
                    return
                yield report
    except CommandError as error:
        yield event_stream.refused(error)
    finally:
        place.leave()


def _of(name: str, key: str) -> str:
    return f"{reverse(name)}?{urlencode({'key': key})}"


def _key(request: HttpRequest) -> str:
    key = request.GET.get("key", "")
    if not is_session_key(key):
        raise Http404
    return key
