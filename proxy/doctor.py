"""All checks of an installation, one after the other. For the command `doctor`."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing

from django.conf import settings
from django.db import Error
from django.utils.timezone import now

from proxy import callbacks, conf, database_check, machine, node_check, redis_check, self_test
from proxy.conf import Options
from proxy.diagnosis import Call, calls
from proxy.findings import Finding, State, failed, ok, skipped, warning
from proxy.models import Node

Headers = Sequence[tuple[bytes, bytes]]


def findings(query: str, headers: Headers) -> Iterator[Finding]:
    """Everything, for a client with this query and these headers; each finding as soon as it is known."""
    options = conf.options()
    yield from _configuration()
    stored = list(database_check.check(options))
    nodes: list[Node] = []
    known = all(finding.state is not State.FAILED for finding in stored)
    if options.registry and settings.SQLITE_FILE and not os.path.exists(settings.SQLITE_FILE):
        known = False
    if known and options.registry:
        try:
            nodes = _nodes()
        except Error as error:
            stored.append(database_check.no_answer(error))
            known = False
    yield from machine.check(options, max(1, sum(node.name == socket.gethostname() for node in nodes)))
    yield from stored
    with asyncio.Runner() as runner:
        live = _live(nodes, known, query, headers, options)
        while finding := runner.run(anext(live, None)):
            yield finding


def _configuration() -> Iterator[Finding]:
    problems = settings.KUIPERBELT_PROBLEMS
    advice = "The proxy does not start like this; what follows is for the default."
    for problem in problems:
        yield failed("configuration", problem.where, problem.expected, problem.found, advice)
    for name in settings.KUIPERBELT_UNKNOWN_VARIABLES:
        yield warning("configuration", name, "a variable that an option reads", "none", "Is it misspelt?")
    if not problems:
        file = settings.KUIPERBELT_CONFIG_FILE
        yield ok("configuration", "options", f"from {file} and the environment" if file else "from the environment")


def _nodes() -> list[Node]:
    with database_check.briefly():
        return list(Node.objects.filter(ended_at=None).order_by("name", "pid"))


async def _live(
    nodes: Sequence[Node], known: bool, query: str, headers: Headers, options: Options
) -> AsyncIterator[Finding]:
    """What takes a network. `known`: the database can be asked."""
    for finding in await redis_check.check(options, len(nodes) or 1):
        yield finding
    doors = node_check.doors(options)
    answers = await asyncio.gather(*(node_check.check_door(door, options) for door in doors))
    for finding, _ in answers:
        yield finding
    unknown = skipped("nodes", "nodes", "the database doesn't say which processes run")
    for finding in node_check.check_nodes(nodes, options, now()) if known else [unknown]:
        yield finding
    own = doors[-1].api()
    alive = [node for node in nodes if (now() - node.heartbeat_at).total_seconds() <= options.node_timeout]
    others = [api for api in dict.fromkeys(node_check.api_of(node) for node in alive) if api != own]
    runs = all(running for _, running in answers)
    places = [*([own] if runs else []), *others]
    said = await asyncio.gather(*(node_check.check_ready(api, options) for api in places))
    for finding, _ in said:
        yield finding
    connect: Call | None = None
    try:
        async with aclosing(calls(callbacks.KINDS, os.fsencode(query), headers)) as asked:
            async for call in asked:
                connect = connect or call
                yield _told(call)
                if call.silent:
                    yield skipped("callbacks", "others", "not asked, since the backend leaves this one unanswered")
                    break
    finally:
        await callbacks.shut_down()
    if not runs:
        yield skipped(
            "self-test", "self-test", "the proxy doesn't run here", "Start `manage.py runproxy`, and ask again."
        )
    elif connect is None or not connect.ok:
        advice = self_test.CREDENTIALS if connect and connect.refused else ""
        yield skipped("self-test", "self-test", "the connect callback lets no client in", advice)
    elif not known:
        yield self_test.unknown(connect.key)
    else:
        # Without Redis each node has its own sessions, and nobody else's.
        reached = [api for api, (_, answered) in zip(places, said, strict=True) if answered and api != own]
        apis = [own, *reached] if options.clustered else [own]
        for finding in await self_test.run(doors[0], apis, connect.key, query, headers, options):
            yield finding


def _told(call: Call) -> Finding:
    name, where = f"{call.callback}", f"{call.url}, {call.seconds * 1000:.0f} ms"
    if call.ok is None:
        return skipped("callbacks", name, "off")
    if call.ok:
        return ok("callbacks", name, f"{where}; {call.text}" if call.text else where)
    if call.refused:
        return ok("callbacks", name, f"{where}; answers, but {call.text}")
    return failed(
        "callbacks", name, f"an answer that can be used, {where}", call.text, "`manage.py checkbackend` asks again."
    )
