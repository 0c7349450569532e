"""The admin's dashboard: a page with plots of the last hour, and the JSON that it asks for every few seconds."""

import time
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

from django.contrib import admin
from django.contrib.auth.decorators import permission_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render

from proxy import series
from proxy.conf import options
from proxy.models import Node, Sample
from proxy.series import Counted

SPAN = 3600  # seconds that the plots show
PLOTS = tuple(zip(series.NAMES, ("Connections", "Connects/s", "Messages/s", "Errors/s"), strict=True))
MAX_LINES = 12  # nodes with a line of their own; more can't be told apart, and count in the total only


@permission_required("proxy.view_node", raise_exception=True)
def page(request: HttpRequest) -> HttpResponse:
    """GET /admin/proxy/dashboard/"""
    context = admin.site.each_context(request) | {
        "title": "Dashboard",
        "span": SPAN,
        "step": series.STEP,
        "plots": PLOTS,
    }
    return render(request, "admin/proxy/dashboard.html", context)


@permission_required("proxy.view_node", raise_exception=True)
def data(request: HttpRequest) -> HttpResponse:
    """GET /admin/proxy/dashboard/data/?since=EPOCH: moments after `since`, and what the lines are there.

    Without `since`, or with one that is long ago, the whole hour.
    """
    now = time.time()
    since = request.GET.get("since", "")
    start = max(now - SPAN, min(float(since), now) if since.isdecimal() and len(since) < 12 else 0.0)
    at = series.moments(start, now)
    samples: dict[Any, list[Counted]] = defaultdict(list)
    first = datetime.fromtimestamp(start - 2 * series.STALE, UTC)
    for node, taken, *counters in Sample.objects.filter(at__gte=first).values_list(
        "node_id", "at", "connections", "total_connections", "total_messages", "errors"
    ):
        samples[node].append(Counted(taken.timestamp(), *counters))
    lines = {node: series.node_lines(counted, at) for node, counted in samples.items()}
    nodes = {node.pk: node for node in Node.objects.filter(pk__in=lines)}
    busiest = sorted(nodes, key=lambda pk: (nodes[pk].ended_at is not None, -nodes[pk].connections, str(pk)))
    return JsonResponse(
        {
            "now": now,
            "at": at,
            "total": series.as_json(series.total_lines(lines.values(), at)),
            "nodes": [_described(nodes[pk], now) | {"lines": series.as_json(lines[pk])} for pk in busiest[:MAX_LINES]],
            "others": max(0, len(busiest) - MAX_LINES),
        },
        headers={"Cache-Control": "no-store"},
    )


def _described(node: Node, now: float) -> dict[str, Any]:
    silence = now - node.heartbeat_at.timestamp()
    alive = node.ended_at is None and silence < options().node_timeout
    return {"id": str(node.pk), "name": f"{node.name} {node.pid}", "alive": alive}
