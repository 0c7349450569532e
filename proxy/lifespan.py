"""The end of the process: sessions end, the backend hears of it, connections to it are closed.

uvicorn ends the sessions itself and then sends the ASGI lifespan event. daphne has no lifespan; its own clean-up at
SIGTERM breaks off at the first connection that is only half set up, so a Twisted trigger of ours does it.
"""

import asyncio
import logging
import signal
import sys
from collections.abc import Coroutine
from time import monotonic
from typing import Any

from proxy import callbacks, conf, delivery, registry, sampler, tracing
from proxy.drain import drain

HURRIED_LIMIT = 0.5  # seconds for what sessions have to tell the backend, after a second signal

logger = logging.getLogger("proxy.lifespan")

_sessions: "set[asyncio.Task[Any]]" = set()
_clean_ups: "set[asyncio.Task[Any]]" = set()
_daphne_ends = False
_draining: "asyncio.Future[None] | None" = None


async def lifespan(scope: Any, receive: Any, send: Any) -> None:
    """The ASGI lifespan application."""
    await receive()
    await delivery.start()
    await registry.start(scope)
    sampler.begin()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await _finish()
    await send({"type": "lifespan.shutdown.complete"})


def clean_up(work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
    """Run what must be done after a session, whatever becomes of the session's own task."""
    task = asyncio.create_task(work)
    _clean_ups.add(task)
    task.add_done_callback(_clean_ups.discard)
    return task


async def _finish() -> None:
    drain.over()
    if _clean_ups:
        await asyncio.wait(_clean_ups, timeout=_time_to_tell())
        if _clean_ups and not conf.options().registry:
            logger.error("%d sessions: the backend wasn't told of their ends in time", len(_clean_ups))
    sampler.end()
    await delivery.shut_down()
    await registry.shut_down()
    await callbacks.shut_down()


def _time_to_tell() -> float:
    """Seconds for what sessions have to tell the backend; what isn't told then, the next process tells."""
    if drain.hurried:
        return HURRIED_LIMIT
    assert drain.exit_by is not None
    options = conf.options()
    needed = registry.STOP_LIMIT if options.registry else 0.0
    needed += tracing.STOP_LIMIT if options.tracing == "spans" else 0.0
    return max(HURRIED_LIMIT, drain.exit_by - monotonic() - needed)


def daphne_ends() -> bool:
    """Is a cancellation daphne's shutdown? It also cancels what goes on for too long after a disconnect."""
    return _daphne_ends


def end_with_daphne() -> None:
    """Have daphne's shutdown cancel the running task, a session's, and wait until it has cleaned up."""
    session = asyncio.current_task()
    assert session is not None
    _sessions.add(session)
    session.add_done_callback(_sessions.discard)


def watch_daphne() -> None:
    """Clean up at daphne's shutdown, which has no lifespan events. Does nothing under another server."""
    # Importing the reactor installs one, so only a process that has daphne's already may do that.
    if "daphne.cli" not in sys.modules:
        return
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred

    if conf.options().has_api_listener:
        logger.error("EKBO_API_PORT, EKBO_API_SOCK: daphne has one listener, the public one, so the API is nowhere")
    if conf.options().tls_cert:
        logger.error("EKBO_TLS_CERT: daphne reads its own command line only, -e ssl:…")

    def end() -> Any:
        global _daphne_ends
        _daphne_ends = True
        drain.begun = True
        return Deferred.fromFuture(asyncio.ensure_future(_end_sessions()))

    async def drain_first() -> None:
        await drain.spread(list(_sessions), _sessions, _end_session, conf.options().drain_window)
        drain.over()
        reactor.stop()

    def on_sigterm() -> None:
        global _daphne_ends, _draining
        _daphne_ends = True
        drain.on_signal()
        _draining = _draining or asyncio.ensure_future(drain_first())

    def take_sigterm() -> None:
        signal.signal(signal.SIGTERM, lambda *_: reactor.callFromThread(on_sigterm))

    reactor.addSystemEventTrigger("before", "shutdown", end)
    reactor.callWhenRunning(take_sigterm)  # Twisted has taken it then
    reactor.callWhenRunning(lambda: reactor.callLater(0, sampler.begin))  # a turn later, on the event loop


def _end_session(session: "asyncio.Task[Any]") -> None:
    if not session.cancelling():  # daphne may have done it; a second time would break the clean-up off
        session.cancel()


async def _end_sessions() -> None:
    running = list(_sessions)
    for session in running:
        _end_session(session)
    await asyncio.gather(*running, return_exceptions=True)
    await _finish()
