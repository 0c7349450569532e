"""How the push lane begins a push that is parsed, and answers it when it is done. Base of push_lane.py."""

import asyncio
import logging
from collections.abc import Awaitable, Coroutine
from functools import cache
from time import perf_counter
from typing import Any

from proxy import conf, delivery, logs, protocol, pushes, rfc6455
from proxy.conf import Options
from proxy.delivery import Begun, Delivery, Pending
from proxy.eager import start
from proxy.exceptions import ApiError
from proxy.handlers import API
from proxy.http_keepalive import KeptAlive
from proxy.protocol import Headers
from proxy.pushes import Head, Push, Tally
from proxy.stats import Stats, stats

_TALLIES = pushes.tallies("push_lane")

logger = logging.getLogger("proxy.api")


class Lane:
    """What the connections of a listener share; `served`: the API is, there."""

    def __init__(self, options: Options, served: bool) -> None:
        self.session_header = options.session_header_name
        self.log = not options.suppress_access_log
        self.pushes: dict[bytes, Push] = {}
        """By the request's target; empty: the lane is off."""
        if options.push_lane and served:
            self.pushes = {options.send_path.encode(): pushes.send, options.close_path.encode(): pushes.close}
        self._defaults: Headers | None = None
        self._ok = b""

    def response(self, status: int, body: bytes, defaults: Headers, *extra: tuple[bytes, bytes]) -> bytes:
        """A whole answer; `defaults` are uvicorn's own headers, a new list each second."""
        if body is protocol.OK_BODY and defaults is self._defaults and not extra:
            return self._ok
        size = (b"content-length", b"%d" % len(body))
        whole = rfc6455.http_head(status, [*defaults, (b"content-type", protocol.JSON.encode()), size, *extra]) + body
        if body is protocol.OK_BODY and not extra:
            self._defaults, self._ok = defaults, whole
        return whole


@cache
def lane(own_listener: bool) -> Lane:
    """That of the API's own listener, or of the public one."""
    options = conf.options()
    return Lane(options, own_listener or not options.has_api_listener)


class Waiting:
    """A request that waits for what becomes of it, in the place where uvicorn keeps its own while they run."""

    message_event = asyncio.Event()  # uvicorn sets it for who waits for the body; nobody does here
    response_started = False
    response_complete = False
    disconnected = False
    keep_alive = True

    def __init__(self, url: bytes, started: float, head: Head) -> None:
        self.url = url
        self.started = started
        self.head = head
        self.over = asyncio.Event()


class PushAnswers(KeptAlive):
    """uvicorn's HTTP protocol, with requests in it that uvicorn doesn't know of."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lane = lane(API in self.app_state)
        self._started = 0.0
        self._head: Head

    def _begin(self, push: Push, keys: list[str], body: bytes, head: Head) -> None:
        """Do it, and answer when it is done. Raises ApiError if nothing was done."""
        try:
            begun = start(push(keys, body, head))
        except ApiError:
            raise
        except Exception:
            self._failed()
        else:
            if isinstance(begun, Delivery):
                self._answer(*_TALLIES[push].answer(begun, keys))
            else:
                self._wait(begun, _TALLIES[push], keys)

    # What can't be finished on the spot. Until it is, uvicorn queues further requests.

    def _wait(self, rest: Pending | Awaitable[Begun], tally: Tally, keys: list[str]) -> None:
        waiting: Any = Waiting(self.url, self._started, self._head)
        self.cycle = waiting

        def on_done(done: Delivery) -> None:
            try:
                status, body = tally.answer(done, keys)
            except Exception:
                self._failed(waiting)
            else:
                self._answer(status, body, waiting)

        if isinstance(rest, Pending):
            rest.when_done(on_done)
        else:
            self._run(self._finish(waiting, rest, tally, keys))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        """As a task that uvicorn knows, and cancels when the server ends and it takes too long."""
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _watch_over(self, waiting: Waiting) -> None:
        try:
            await waiting.over.wait()
        except asyncio.CancelledError:
            self._answer(503, protocol.refusal_body("shutting down"), waiting)

    async def _finish(self, waiting: Waiting, rest: Awaitable[Begun], tally: Tally, keys: list[str]) -> None:
        try:
            status, body = tally.answer(await delivery.end_of(await rest), keys)
        except asyncio.CancelledError:  # the server ends and this took too long
            status, body = 503, protocol.refusal_body("shutting down")
        except Exception:
            self._failed(waiting)
            return
        self._answer(status, body, waiting)

    # The answer

    def _failed(self, waiting: Waiting | None = None) -> None:
        path = (waiting.url if waiting else self.url).decode()
        logger.exception("POST %(path)s: unexpected error", {"event": "unexpected_error", "path": path})
        stats.add(Stats.api_refusals["500"])
        self._answer(500, b'{"result":"NG"}', waiting)

    def _answer(self, status: int, body: bytes, waiting: Waiting | None = None) -> None:
        extra: Headers = ()
        if waiting:
            if waiting.response_complete:  # it was told at the server's end that it takes too long
                return
            waiting.response_complete = True
            waiting.over.set()
            extra = () if waiting.keep_alive else ((b"connection", b"close"),)
        if not self.transport.is_closing():
            self.transport.write(self._lane.response(status, body, self.server_state.default_headers, *extra))
        if self._lane.log:
            url, began, head = (self.url, self._started, self._head)
            if waiting:
                url, began, head = waiting.url, waiting.started, waiting.head
            logs.log_request("POST", url.decode(), status, perf_counter() - began, head.headers)
        if extra:
            self.transport.close()
        self.on_response_complete()

    def shutdown(self) -> None:
        """uvicorn ends: what waits is told before it takes too long."""
        waiting: Any = self.cycle
        if isinstance(waiting, Waiting) and not waiting.response_complete:
            self._run(self._watch_over(waiting))
        super().shutdown()
