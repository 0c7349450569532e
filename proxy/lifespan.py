"""The end of the process: sessions end, the backend hears of it, connections to it are closed.

uvicorn ends the sessions itself and then sends the ASGI lifespan event. daphne has no lifespan; its own clean-up at
SIGTERM breaks off at the first connection that is only half set up, so a Twisted trigger of ours does it.
"""

import asyncio
from functools import cache
from typing import Any

from proxy import callbacks

_sessions: "set[asyncio.Task[Any]]" = set()


async def lifespan(scope: Any, receive: Any, send: Any) -> None:
    """The ASGI lifespan application."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await callbacks.shut_down()
    await send({"type": "lifespan.shutdown.complete"})


def end_with_daphne() -> None:
    """Have daphne's shutdown cancel the running task, a session's, and wait until it has cleaned up."""
    session = asyncio.current_task()
    assert session is not None
    _watch_reactor()
    _sessions.add(session)
    session.add_done_callback(_sessions.discard)


@cache
def _watch_reactor() -> None:
    # Importing the reactor installs one, so only a process that has daphne's already may do that.
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred

    def end() -> Any:
        return Deferred.fromFuture(asyncio.ensure_future(_end_sessions()))

    reactor.addSystemEventTrigger("before", "shutdown", end)


async def _end_sessions() -> None:
    running = list(_sessions)
    for session in running:
        session.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await callbacks.shut_down()
