"""How a command reaches sockets that other processes hold.

With Redis it is a process of the cluster for a moment, and goes through `delivery`. Without, it asks the API of each
node that has one of the sessions; the registry knows where that is.
"""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from django.core.management.base import CommandError

from proxy import conf, delivery, node_http
from proxy.exceptions import HttpError, SessionNotFound, Unreachable, WrongCertificate
from proxy.forwarding import TextHeaders
from proxy.http_client import HttpClient
from proxy.http_request import Template
from proxy.models import Session
from proxy.protocol import Frame

ANSWER_SIZE = 1 << 20  # bytes: room for a line about each of 1,000 sessions
ANSWER_LIMIT = 60.0  # seconds, for up to 1,000 sessions of which some may be blocked
HEADER_SIZE = 8000  # bytes of keys in one request: daphne takes 16 KiB of headers

Failures = dict[str, str]
"""Who it failed for, and why."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done with some sessions: a frame, then Close if there is a code.

    The backend hasn't asked for it, so it is told of the end by the close callback.
    """

    frame: Frame | None
    code: int | None = None
    reason: str = ""


Push = Callable[[Order, Sequence[str]], Failures]
"""Carries an order out for up to 1,000 keys, each named once."""

Once = Callable[[Sequence[str]], Awaitable[tuple[Failures, bool]]]
"""One request for some keys; its failures, and whether they were a reason to serve nobody."""


@contextmanager
def reach() -> Iterator[Push]:
    """The way to the sockets, while the block lasts. Raises CommandError when there is none."""
    with asyncio.Runner() as runner:
        if not conf.options().clustered:
            yield lambda order, keys: _through_nodes(runner, order, keys)
            return
        layer = runner.run(delivery.start())
        try:
            if layer.is_unreachable():
                raise CommandError(f"expected Redis (EKBO_REDIS_URL), found: {'; '.join(layer.problems())}")
            yield lambda order, keys: runner.run(_through_cluster(order, keys))
        finally:
            runner.run(delivery.shut_down())


async def _all_that_can(once: Once, keys: Sequence[str]) -> Failures:
    """strict_broadcast is for the backend's pushes: what it refuses is done without the keys that are missing."""
    failures: Failures = {}
    while True:
        failed, refused = await once(keys)
        failures |= failed
        keys = [key for key in keys if key not in failed]
        if not (refused and failed and keys):
            return failures


async def _through_cluster(order: Order, keys: Sequence[str]) -> Failures:
    async def once(keys: Sequence[str]) -> tuple[Failures, bool]:
        if order.code is not None:
            done = await delivery.close(keys, order.frame, order.code, order.reason, tell=True)
        else:
            assert order.frame is not None
            done = await delivery.send(keys, order.frame)
        return {failure.session: failure.error for failure in done.failures}, done.refused

    return await _all_that_can(once, keys)


def _through_nodes(runner: asyncio.Runner, order: Order, keys: Sequence[str]) -> Failures:
    holders: dict[ApiPlace, list[str]] = {}
    rows = Session.objects.filter(ended_at=None, key__in=keys)
    for key, host, endpoint, node in rows.values_list("key", "node__name", "node__endpoint", "node").distinct():
        holders.setdefault(ApiPlace(host, endpoint, node), []).append(key)
    failures = dict.fromkeys(keys, SessionNotFound.text)
    served: set[str] = set()
    for place, held in holders.items():
        failed = runner.run(ask(place, order, held))
        failures |= failed
        served |= set(held) - set(failed)
    return {key: why for key, why in failures.items() if key not in served}


@dataclass(frozen=True, slots=True)
class ApiPlace:
    """Where a node's API is."""

    host: str
    endpoint: str
    node: UUID | None = None
    """The process that is meant, where it must be no other."""

    def ways(self) -> list[tuple[str, str]]:
        """Each way to it: the UNIX socket, if it is one, and host:port.

        On the node's own host loopback is tried first, for without keys the API lets in nobody else.
        """
        if self.endpoint.startswith("/"):
            return [(self.endpoint, "localhost")]
        port = self.endpoint.rpartition(":")[2]
        here = [("", f"127.0.0.1:{port}")] if self.host == socket.gethostname() and port.isdigit() else []
        return [*here, ("", self.endpoint)]

    def headers(self) -> TextHeaders:
        """What a request says, that no other process takes: on loopback there may be that of another machine, whose
        host has the same name."""
        return [("X-Kuiperbelt-Node", str(self.node))] if self.node else []


async def ask(place: ApiPlace, order: Order, keys: Sequence[str]) -> Failures:
    """One node's answer, or why it can't be asked."""
    name = f"node {place.host} at {place.endpoint}"
    failures: Failures = {}
    left = list(_parts(keys))
    why = ""
    for sock, address in place.ways():
        client = node_http.client(sock, address, node_http.has_tls())
        try:
            while left:
                failures |= await _all_that_can(partial(_post, client, address, place.headers(), order), left[0])
                del left[0]
            break
        except WrongCertificate:
            why = f"{name} has another certificate than the one in {conf.options().tls_cert}"
            break
        except Unreachable as error:
            why = f"{name} can't be reached: {error}"
        except (HttpError, TimeoutError) as error:
            why = f"{name} gave no whole answer ({error or 'in time'}); it may have been done all the same"
            break
        finally:
            await client.shut_down()
    return failures | {key: why for part in left for key in part}


async def _post(
    client: HttpClient, address: str, addressee: TextHeaders, order: Order, keys: Sequence[str]
) -> tuple[Failures, bool]:
    """One request to the API. Raises HttpError, TimeoutError."""
    options = conf.options()
    headers = [("Host", address), (options.session_header, ",".join(keys)), *addressee, *node_http.credentials()]
    if order.frame:
        headers.append(("Content-Type", order.frame.content_type))
    path = options.send_path
    if order.code is not None:
        path = options.close_path
        headers += [("X-Kuiperbelt-Close-Code", str(order.code)), ("X-Kuiperbelt-Close-Reason", order.reason)]
        headers.append(("X-Kuiperbelt-Close-Callback", "true"))
    body = order.frame.encode() if order.frame else b""
    request = Template("POST", headers).request(path, [], body)
    answer = await client.exchange(request, ANSWER_SIZE, ANSWER_LIMIT)
    if answer.status == node_http.MISDIRECTED:
        raise Unreachable(node_http.ANOTHER)
    return _understood(answer.status, answer.body, keys)


def _understood(status: int, body: bytes, keys: Sequence[str]) -> tuple[Failures, bool]:
    try:
        errors = json.loads(body).get("errors", [])
        failures = {error["session"]: error["error"] for error in errors if "session" in error}
        why = "; ".join(error["error"] for error in errors if "session" not in error)
    except (ValueError, TypeError, KeyError, AttributeError):
        why, failures = "not the proxy's answer", {}
    if (status == 200 and not why) or failures:
        return failures, status == 400
    if status == 401:
        why += "; a command sends the first of its own EKBO_API_KEYS"
    return dict.fromkeys(keys, f"refused with {status}: {why}"), False


def _parts(keys: Sequence[str]) -> Iterator[list[str]]:
    """The keys in order, as many at a time as any server takes in one request's headers."""
    part: list[str] = []
    size = 0
    for key in keys:
        size += len(key) + 1
        if size > HEADER_SIZE:
            yield part
            part, size = [], len(key) + 1
        part.append(key)
    yield part
