"""The reports of one key for `manage.py tail`: over the cluster's Redis, or without it from the API of each node.

With Redis the command is a process of the cluster for a while, and watches as the API does. Without, each node that
lives is asked for the key, which connects at one of them; so does the admin's page (`watch_page`).
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from time import monotonic
from urllib.parse import quote
from uuid import UUID

from asgiref.sync import sync_to_async
from django.core.management.base import CommandError
from django.db import close_old_connections
from django.utils.timezone import now

from proxy import conf, delivery, node_http, reports
from proxy.exceptions import HttpError, Unreachable
from proxy.models import Node
from proxy.ndjson import Lines
from proxy.remote import ApiPlace
from proxy.reports import Report
from proxy.watch_stream import CONTENT_TYPE
from proxy.watching import KEEP_ALIVE, Watcher

MAX_LINE = 1 << 16  # bytes
SILENCE = 3 * KEEP_ALIVE  # seconds without a byte, after which a node counts as gone
NODES_LAST = 5.0  # seconds that the registry's list of nodes is believed
AGAIN = 1.0  # seconds until a node that couldn't be asked is asked again
MAX_NODES = 50
MAX_WAITING = 256  # reports that a reader who is too slow has before him; more are dropped, and counted


async def tail(key: str, contents: bool) -> AsyncGenerator[Report, None]:
    """What happens, for ever. Raises CommandError when nothing can be watched."""
    way = _through_cluster if conf.options().clustered else through_nodes
    async with contextlib.aclosing(way(key, contents)) as found:
        async for report in found:
            if report:
                yield report


async def _through_cluster(key: str, contents: bool) -> AsyncGenerator[Report | None, None]:
    if contents and not conf.options().watch_contents:
        raise CommandError("expected that contents may be shown, found EKBO_WATCH_CONTENTS off")
    layer = await delivery.start()
    try:
        if layer.is_unreachable():
            raise CommandError(f"expected Redis (EKBO_REDIS_URL), found: {'; '.join(layer.problems())}")
        watcher = await Watcher.opened(key, contents)
        async with contextlib.aclosing(watcher.reports()) as found:
            async for report in found:
                yield report
    finally:
        await asyncio.sleep(0)  # the word that nobody watches any more is on its way out
        await delivery.shut_down()


async def through_nodes(key: str, contents: bool) -> AsyncGenerator[Report | None, None]:
    """What happens at any node, and None every now and then while nothing does. Raises CommandError."""
    told = _Told()
    followed: dict[ApiPlace, asyncio.Task[None]] = {}
    absent: set[ApiPlace] = set()
    places: dict[ApiPlace, UUID] = {}
    due, alone = 0.0, False
    try:
        while True:
            if monotonic() >= due:
                found = await sync_to_async(living)()
                places.clear()
                places.update(found)  # which those that follow look at
                due = monotonic() + NODES_LAST
                for place in followed.keys() - places.keys():
                    followed.pop(place).cancel()
                    absent.discard(place)
                for place in places.keys() - followed.keys():
                    followed[place] = asyncio.create_task(_follow(place, places, key, contents, told))
                if not places and not alone:
                    yield _own(reports.LOST, "the registry knows no process that runs")
                alone = not places
            for task in followed.values():
                if task.done():
                    task.result()  # it ends by CommandError only
            try:
                async with asyncio.timeout(AGAIN):
                    place, report = await told.get()
            except TimeoutError:
                yield None
                continue
            if report["what"] == reports.ABSENT:
                absent.add(place)
                if followed.keys() - absent:
                    continue  # another node may have it
            else:
                absent.discard(place)
            if report["what"] == reports.LOST:  # another process may have its place
                due = min(due, monotonic() + AGAIN)
            yield report
    finally:
        for task in followed.values():
            task.cancel()
        await asyncio.gather(*followed.values(), return_exceptions=True)


def living() -> dict[ApiPlace, UUID]:
    """Where the API of each process is that lives, as far as the registry knows: the newest of those at one place."""
    try:
        least = now() - timedelta(seconds=conf.options().node_timeout)
        living = Node.objects.filter(ended_at=None, heartbeat_at__gt=least).exclude(endpoint="").order_by("started_at")
        found = living.values_list("name", "endpoint", "id")[:MAX_NODES]
        return {ApiPlace(name, endpoint): node for name, endpoint, node in found}
    finally:
        close_old_connections()


class _Told(asyncio.Queue[tuple[ApiPlace, Report]]):
    """What the nodes have told, until it is read."""

    _dropped = 0

    def tell(self, place: ApiPlace, report: Report) -> None:
        """Add it, if it is one that can't be missed or there is room."""
        if "connection" in report and self.qsize() >= MAX_WAITING:
            self._dropped += (report.get("count") or 1) if report["what"] == reports.MISSED else 1
            return
        if self._dropped:
            found = {"what": reports.MISSED, "at": reports.moment(), "count": self._dropped}
            self.put_nowait((place, found))
            self._dropped = 0
        self.put_nowait((place, report))


async def _follow(place: ApiPlace, places: Mapping[ApiPlace, UUID], key: str, contents: bool, told: _Told) -> None:
    """Read what one node tells, again and again. Raises CommandError when it refuses."""
    name = f"node {place.host} at {place.endpoint}"
    lost = ""

    def on_report(report: Report) -> None:
        nonlocal lost
        if report["what"] == reports.ENDED:
            return  # the answer ends as well
        if lost:
            lost = ""
            told.tell(place, _own(reports.REGAINED, name))
        told.tell(place, report)

    while True:
        why = f"{name} {await _stream(replace(place, node=places.get(place)), key, contents, on_report)}"
        if why != lost:
            lost = why
            told.tell(place, _own(reports.LOST, why))
        await asyncio.sleep(AGAIN)


async def _stream(place: ApiPlace, key: str, contents: bool, on_report: Callable[[Report], None]) -> str:
    """Read until the answer ends; why it did. Raises CommandError when there will be none."""
    lines = Lines(MAX_LINE)

    def on_piece(piece: bytes) -> None:
        for line in filter(None, lines.feed(piece)):
            with contextlib.suppress(ValueError):
                report = json.loads(line)
                if isinstance(report, dict) and isinstance(report.get("what"), str):
                    on_report(report)

    path = f"{conf.options().sessions_path.rstrip('/')}/{quote(key, safe='')}?watch{'&contents' if contents else ''}"
    why = ""
    for sock, address in place.ways():
        try:
            answer = await node_http.stream(sock, address, place.headers(), path, on_piece, SILENCE)
        except Unreachable as error:
            why = f"can't be reached: {error}"
        except (HttpError, TimeoutError) as error:
            return f"has gone ({error or 'it is silent'})"
        else:
            if answer.status == 404 or (answer.status == 200 and answer.get(b"content-type") != CONTENT_TYPE):
                raise CommandError(f"node {place.host} is of a version whose sessions can't be watched")
            if answer.status in (200, 503):
                return "ends" if answer.status == 200 else f"can't be watched now: {_said(answer.body)}"
            hint = "; a command sends the first of its own EKBO_API_KEYS" if answer.status == 401 else ""
            raise CommandError(f"node {place.host} refused with {answer.status}: {_said(answer.body)}{hint}")
    return why


def _said(body: bytes) -> str:
    try:
        return "; ".join(str(error["error"]) for error in json.loads(body)["errors"])
    except (ValueError, TypeError, KeyError):
        return "not the proxy's answer"


def _own(what: str, reason: str) -> Report:
    return {"what": what, "at": reports.moment(), "reason": reason}
