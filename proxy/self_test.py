"""A client's whole life against the nodes that run: connect, be pushed to through every node, be closed. For `doctor`.

The backend is asked as for any client: there is no way in without it, so none that could be abused.
"""

import asyncio
import contextlib
import uuid
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from asgiref.sync import sync_to_async
from django.core.management.base import CommandError
from django.db import Error
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from proxy import node_http, remote
from proxy.conf import Options
from proxy.database_check import briefly
from proxy.diagnosis import TEST
from proxy.findings import Finding, failed, ok, skipped
from proxy.models import Session
from proxy.node_check import Door
from proxy.protocol import make_frame
from proxy.remote import ApiPlace, Order

AREA = "self-test"
LIMIT = 5.0  # seconds for all of it
CREDENTIALS = "Say with --query and --header who the client is: a user of its own for this, whom the backend lets in."


async def run(
    door: Door, apis: Sequence[ApiPlace], key: str, query: str, headers: Sequence[tuple[bytes, bytes]], options: Options
) -> list[Finding]:
    """Connect at `door`, push through each of `apis`; `key` is what the backend calls such a client.

    A key that is connected isn't touched: its connection would be replaced.
    """
    try:
        if options.registry and await _find(key=key):
            found = f"{key} is connected, and the test would replace that connection"
            return [skipped(AREA, "self-test", found, CREDENTIALS)]
    except Error:
        return [unknown(key)]
    test = _Test(door, apis, key, options)
    began = perf_counter()
    try:
        async with asyncio.timeout(LIMIT):
            await test.run(query, headers)
    except TimeoutError:
        test.fail("an end within " + f"{LIMIT:g} s", "none", "Is the machine, the backend or Redis overloaded?")
    except InvalidStatus as error:
        status = error.response.status_code
        test.fail("status 101", f"status {status}", _WHY.get(status, "The log says why."))
    except (WebSocketException, OSError, CommandError, Error) as error:
        test.fail("a connection", str(error) or type(error).__name__, "The node's log says more.")
    if not any(finding.expected for finding in test.findings):
        done = f"connected, pushed to through {len(apis)} node(s), closed, in {(perf_counter() - began) * 1000:.0f} ms"
        test.findings.append(ok(AREA, "self-test", done))
    return test.findings


def unknown(key: str) -> Finding:
    """The database can't be asked."""
    found = f"the database doesn't say whether {key} is connected, and the test would replace that connection"
    return skipped(AREA, "self-test", found, "See to the database first.")


@sync_to_async
def _find(**wanted: Any) -> str | None:
    """The key of such a session that lives, if the registry knows one. Raises django.db.Error."""
    with briefly():
        return Session.objects.filter(ended_at=None, **wanted).values_list("key", flat=True).first()


_WHY = {
    401: f"The backend doesn't let this client in. {CREDENTIALS}",
    403: f"The backend, or origin_policy, doesn't let this client in. {CREDENTIALS}",
    409: "The key is connected (duplicate_session: reject).",
    502: "The backend gives no usable answer to the node: `manage.py checkbackend`, on the node's machine.",
    503: "A limit is reached, Redis is away, the backend is busy, or the node shuts down: the access log says which.",
}


class _Test:
    def __init__(self, door: Door, apis: Sequence[ApiPlace], key: str, options: Options) -> None:
        self._door, self._apis, self._key, self._options = door, apis, key, options
        self.findings: list[Finding] = []
        self._step = "connect"

    def fail(self, expected: str, found: str, advice: str) -> None:
        self.findings.append(failed(AREA, self._step, expected, found, advice))

    async def run(self, query: str, headers: Sequence[tuple[bytes, bytes]]) -> None:
        # By the agent, which nobody else has, the registry finds the session, however the backend calls it.
        agent = f"{TEST}/{uuid.uuid4()}"
        given = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
        async with self._connection(query, [*given, ("User-Agent", agent)]) as socket:
            if self._options.registry:
                self._key = await _find(user_agent__endswith=agent) or self._key
            self._step = "push"
            frames = await self._push()
            self._step = "receive"
            await self._receive(socket, frames)
            self._step = "close"
            await self._close(socket)

    def _connection(self, query: str, headers: list[tuple[str, str]]) -> connect:
        door = self._door
        uri = f"{'wss' if door.tls else 'ws'}://{door.address}{self._options.connect_path}?{query}"
        how: dict[str, Any] = {
            "additional_headers": headers,
            "user_agent_header": None,
            "compression": None,
            "proxy": None,
        }
        if door.place.sock:
            return unix_connect(door.place.sock, uri, **how)
        return connect(uri, ssl=node_http.known_by() if door.tls else None, **how)

    async def _push(self) -> set[str]:
        """A frame through each node; those that were taken."""
        frames = {f"{TEST} {number} of {len(self._apis)}": api for number, api in enumerate(self._apis, 1)}
        answers = await asyncio.gather(
            *(self._ask(api, Order(make_frame(text.encode(), ""))) for text, api in frames.items())
        )
        taken = set()
        for (text, api), why in zip(frames.items(), answers, strict=True):
            if not why:
                taken.add(text)
            elif "refused with 403" in why and api != self._apis[0]:
                # Where each backend pushes to its own host's node, without keys, that is as it should be.
                advice = "With EKBO_API_KEYS, the same on all nodes, any node takes pushes from anywhere."
                self.findings.append(skipped(AREA, f"push through {api.endpoint}", why, advice))
            else:
                self._step = f"push through {api.endpoint}"
                self.fail(
                    "OK", why, "Are Redis, EKBO_REDIS_PREFIX and EKBO_API_KEYS the same for all nodes and this command?"
                )
        return taken

    async def _ask(self, api: ApiPlace, order: Order) -> str:
        return (await remote.ask(api, order, [self._key])).get(self._key, "")

    async def _receive(self, socket: ClientConnection, frames: set[str]) -> None:
        """All of them; what else comes is the backend's."""
        try:
            while frames:
                frames.discard(str(await socket.recv()))
        except ConnectionClosed:
            self.fail(f"{len(frames)} more frame(s)", f"Close {socket.close_code}", "Has the backend closed it?")

    async def _close(self, socket: ClientConnection) -> None:
        if socket.close_code is not None:
            return
        if why := await self._ask(self._apis[0], Order(None, 1000, TEST)):
            self.fail("OK", why, "The log of the node says more.")
            return
        with contextlib.suppress(ConnectionClosed):
            while True:
                await socket.recv()
        if socket.close_code != 1000:
            self.fail("Close 1000", f"Close {socket.close_code}", "Has something between cut the connection?")
