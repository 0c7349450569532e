"""The end of the process: sessions end, the backend hears of it, connections to it are closed.

uvicorn ends the sessions itself and then sends the ASGI lifespan event. daphne has no lifespan; its own clean-up at
SIGTERM breaks off at the first connection that is only half set up, so a Twisted trigger of ours does it.
"""

import asyncio
import logging
import sys
from collections.abc import Coroutine
from typing import Any

from proxy import callbacks, conf, delivery, registry

CLEAN_UP_LIMIT = 12.0  # seconds that the end of the process waits for what sessions still have to tell the backend

logger = logging.getLogger("proxy.lifespan")

_sessions: "set[asyncio.Task[Any]]" = set()
_clean_ups: "set[asyncio.Task[Any]]" = set()
_daphne_ends = False


async def lifespan(scope: Any, receive: Any, send: Any) -> None:
    """The ASGI lifespan application."""
    await receive()
    await delivery.start()
    await registry.start(scope)
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
    if _clean_ups:
        await asyncio.wait(_clean_ups, timeout=CLEAN_UP_LIMIT)
    await delivery.shut_down()
    await registry.shut_down()
    await callbacks.shut_down()


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
    if "twisted.internet.reactor" not in sys.modules:
        return
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred

    daphne = "daphne.cli" in sys.modules  # as an installed app it brings its reactor under any server
    if daphne and conf.options().has_api_listener:
        logger.error("EKBO_API_PORT, EKBO_API_SOCK: daphne has one listener, the public one, so the API is nowhere")
    if daphne and conf.options().tls_cert:
        logger.error("EKBO_TLS_CERT: daphne reads its own command line only, -e ssl:…")

    def end() -> Any:
        global _daphne_ends
        _daphne_ends = True
        return Deferred.fromFuture(asyncio.ensure_future(_end_sessions()))

    reactor.addSystemEventTrigger("before", "shutdown", end)


async def _end_sessions() -> None:
    running = list(_sessions)
    for session in running:
        if not session.cancelling():  # daphne may have done it; a second time would break the clean-up off
            session.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await _finish()
