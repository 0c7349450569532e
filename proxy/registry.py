"""The registry: which sessions there are, in the database, and the close event of each. Consumers and views call it.

Nothing here ever stops a connection, a push or a close: while the database doesn't work, news wait in memory
(docs/sessions.md). With EKBO_REGISTRY=false there is no registry, and a close callback is tried once.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, TypeVar
from uuid import UUID
from weakref import WeakKeyDictionary, WeakSet

from django.utils import timezone

from proxy import close_events, conf, forwarding, store
from proxy.callbacks import Session, client
from proxy.changes import Ended, Facts
from proxy.clock import process_time
from proxy.close_events import Teller
from proxy.conf import Options
from proxy.database import DATABASE_ERRORS, Database
from proxy.endpoint import api_address
from proxy.exceptions import NodeGone
from proxy.journal import Journal, Row, Stored
from proxy.nodes import Process
from proxy.protocol import header_values, plain
from proxy.store import Event

START_LIMIT = 2.0  # seconds that the start waits for the database
STOP_LIMIT = 1.25  # seconds that the end waits for it, with the closing of its connection
CLOSE_LIMIT = 0.25  # seconds of these, at least, for that
DROP_LIMIT = 5.0  # seconds for looking through all sessions of this process after the backlog was full

T = TypeVar("T")


class Registry:
    """The registry of one event loop's process."""

    def __init__(self, options: Options, endpoint: str) -> None:
        self._tell = bool(options.close_callback)
        self._live: set[Entry] = set()
        self._begun = asyncio.Event()
        self._database = Database(self._on_problem)
        self._questions: Database | None = None
        self._process = Process(
            self._database, options, endpoint, self._on_begin, self._on_events, self._on_dead, self._on_forgotten
        )
        self.journal = Journal(self._database, lambda: self.node, self._process.on_gone, self._on_room)
        self.teller = Teller(self._database, self.journal, options, lambda: self.node, self._process.make_sure)
        self._tasks = [asyncio.create_task(self._process.run()), asyncio.create_task(self.teller.run())]

    @property
    def problem(self) -> str:
        """Why the database isn't written now, or nothing."""
        return self._database.problem

    @property
    def node(self) -> UUID | None:
        """This process as the database knows it, once it does."""
        return self._process.id

    async def begin(self) -> None:
        """Wait until the database knows this process, but not for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_LIMIT):
                await self._begun.wait()

    async def stop(self) -> None:
        """Write what there is to write, and leave what isn't told to the next process, if the database works."""
        deadline = monotonic() + STOP_LIMIT
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.teller.stop()
        with contextlib.suppress(TimeoutError, NodeGone, *DATABASE_ERRORS):
            async with asyncio.timeout(STOP_LIMIT - CLOSE_LIMIT):
                await self.journal.drain()
                if node := self.node:
                    await self._database.run(lambda: store.leave(node, self._tell))
        databases = [each for each in (self._database, self._questions) if each]
        left = max(CLOSE_LIMIT, deadline - monotonic())
        await asyncio.gather(*(each.stop(left) for each in databases))

    async def ask(self, question: Callable[[], T]) -> T:
        """What the question returns or raises; it has a thread of its own, in which it holds up nothing else."""
        self._questions = self._questions or Database(lambda: None)
        return await self._questions.run(question)

    async def opened(self, entry: "Entry") -> None:
        self._live.add(entry)
        await self.journal.commit(entry)

    async def closed(self, entry: "Entry", code: int, reason: str, tell: bool) -> None:
        self._live.discard(entry)
        if entry.taken:
            return
        if not (tell and self._tell):
            entry.done = True
            self.journal.put(entry)
            return
        due = process_time(self.teller.lease())
        entry.ended = Ended(timezone.now(), code, reason, due)
        await self.journal.commit(entry)
        session = entry.session
        event = Event(session.connection, session.key, session.endpoint, code, reason, 0, due)
        await self.teller.tell_fresh(entry, event)

    def _on_begin(self) -> None:
        self._begun.set()
        self.journal.go()
        self.teller.wake()

    def _on_events(self) -> None:
        self.teller.wake()

    def _on_problem(self) -> None:
        self.journal.release_all()

    def _on_dead(self) -> None:
        """Others tell the ends of all sessions that the database knew; those that are live here must end."""
        known = [*self._live, *self.journal.pending(), *self.teller.telling.values()]
        for row in [row for row in known if row.stored is Stored.YES]:
            self.journal.give_up_to(row)
        for entry in [entry for entry in self._live if entry.stored is not Stored.NO]:
            entry.on_lost()
        self.journal.release_all()

    def _on_forgotten(self) -> None:
        """Nobody tells the ends of sessions that the database doesn't know: it shall know them again."""
        known = {*self._live, *self.teller.telling.values()}
        for row in known.union(self.journal.pending()):
            row.on_forgotten()
        for row in known:
            if not (row.done or row.taken):
                self.journal.put(row)
        self.journal.release_all()

    async def _on_room(self, node: UUID) -> None:
        """The backlog was full: ends weren't written, nor sessions that are live."""
        known = {row.connection for row in (*self._live, *self.teller.telling.values(), *self.journal.pending())}
        tell, self.teller.untold = self.teller.untold, False
        try:
            await self._database.run(lambda: store.drop_others(node, known, tell, process_time()), DROP_LIMIT)
        except BaseException:
            self.teller.untold |= tell
            raise
        if tell:
            self.teller.wake()
        for entry in [entry for entry in self._live if entry.stored is not Stored.YES]:
            self.journal.put(entry)


class Entry(Row):
    """A session that the backend has accepted."""

    __slots__ = ("_registry", "on_lost", "session")

    def __init__(
        self, registry: Registry | None, session: Session, facts: Facts | None, on_lost: Callable[[], None]
    ) -> None:
        super().__init__(session.connection, facts)
        self._registry = registry
        self.session = session
        self.on_lost = on_lost

    async def opened(self) -> None:
        """Returns when the database has it, unless it doesn't work."""
        if self._registry:
            await self._registry.opened(self)

    async def closed(self, code: int, reason: str, tell: bool) -> None:
        """It has ended. Returns when the backend has been told, if it shall be, or has failed to hear once."""
        if self._registry:
            await self._registry.closed(self, code, reason, tell)
        elif tell and client().wants("close"):
            await close_events.tell(self.session, code, reason)


def enter(scope: dict[str, Any], session: Session, subprotocol: str | None, on_lost: Callable[[], None]) -> Entry:
    """A session begins; `on_lost` is called when it must end because others hold it for lost."""
    options = conf.options()
    registry = current(scope)
    if registry is None:
        return Entry(None, session, None, on_lost)
    headers = scope["headers"]
    client_host = (scope.get("client") or ("",))[0]
    peer = forwarding.peer(headers, client_host, "", options.trusted_proxies)
    agents = header_values(headers, b"user-agent")
    facts = Facts(
        session.key,
        plain(peer.address(options.trusted_proxies), 64),
        plain(agents[0].decode("latin-1"), 512) if agents else "",
        plain(scope["path"], 255),
        plain(scope["query_string"].decode("latin-1"), 2048) if options.registry_query else "",
        plain(subprotocol or "", 255),
        plain(session.endpoint, 255),
        timezone.now(),
    )
    return Entry(registry, session, facts, on_lost)


_registries: "WeakKeyDictionary[asyncio.AbstractEventLoop, Registry]" = WeakKeyDictionary()
_over: "WeakSet[asyncio.AbstractEventLoop]" = WeakSet()


def current(scope: Mapping[str, Any]) -> Registry | None:
    """The running event loop's registry, begun when it is first needed: daphne has no start-up event.

    None once it has ended: daphne answers requests until the very end.
    """
    options = conf.options()
    loop = asyncio.get_running_loop()
    if not options.registry or loop in _over:
        return None
    found = _registries.get(loop)
    if found is None:
        found = _registries[loop] = Registry(options, api_address(scope))
    return found


def running() -> Registry | None:
    """The running event loop's registry, if it has begun."""
    return _registries.get(asyncio.get_running_loop())


async def start(scope: Mapping[str, Any]) -> list[str]:
    """Begin, if that isn't done; what is wrong with it, in words."""
    registry = current(scope)
    if registry is None:
        return []
    await registry.begin()
    return [f"database: {registry.problem}"] if registry.problem else []


async def shut_down() -> None:
    """End the running event loop's registry."""
    loop = asyncio.get_running_loop()
    _over.add(loop)
    if registry := _registries.pop(loop, None):
        await registry.stop()
