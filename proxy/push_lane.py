"""The push lane: POST /send and /close taken in uvicorn's HTTP protocol, before there is a scope, a cycle or a task.

It takes the plain case only: a request with Content-Length on a connection that has nothing else to do, which is
admitted and well-formed. It hands everything else on, to the Django view, which does the same and says what is wrong;
so what it answers itself are deliveries, byte for byte as the view does (design: Measured before building).
"""

import asyncio
import logging
from collections.abc import Awaitable, Coroutine, Iterable
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
from proxy.repeated_head import RepeatedHead, learn
from proxy.stats import Stats, stats

MAX_LESSONS = 3  # heads of a connection that are learnt in vain before it is taken to have no usual one

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


def hand_all_on(connections: Iterable[object]) -> None:
    """From now on uvicorn gets every request of these, which can have a connection closed after the answer."""
    for own_listener in (False, True):
        lane(own_listener).pushes = {}
    for each in connections:
        if isinstance(each, PushLane):
            each._usual = None


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


class PushLane(KeptAlive):
    """uvicorn's HTTP protocol with the lane in front of it."""

    reads_head = True
    """No head has come in whole since the last request."""
    head_size = 0
    """Bytes of the head, or of what may be trailers, for who counts them; a piece of the body puts it back."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lane = lane(API in self.app_state)
        # The push whose body is coming in, if there is one.
        self._push: Push | None = None
        self._head: Head
        self._keys: list[str]
        self._body = bytearray()
        self._started = 0.0
        self._between = True  # the parser has nothing of a request
        self._usual: RepeatedHead | None = None
        self._lessons = MAX_LESSONS
        self._taken: tuple[Push, bytes, bytes] | None = None
        """The last request that was parsed and taken: what it does, its target, its body."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._peer = {"method": "POST", "client": self.client, "server": self.server}

    def data_received(self, data: bytes) -> None:
        if not (self._between and self._usual and self._is_usual(self._usual, data)):
            learns = self._between and self._lessons
            self._taken = None
            super().data_received(data)
            if learns and self._taken:
                self._lessons -= 1
                self._usual = learn(data, self._lane.session_header, self._head, *self._taken) or self._usual

    def _is_usual(self, usual: RepeatedHead, data: bytes) -> bool:
        """Is this all of a push, and of no other head than the last one's? Then it is taken, past the parser."""
        cycle = self.cycle
        if self.flow.write_paused or (cycle and not cycle.response_complete):
            return False
        body, options = usual.body_of(data), conf.options()
        if body is None or len(body) > options.max_body_size:
            return False
        self._unset_keepalive_if_required()
        self.url, self._started, self._head = usual.url, perf_counter(), usual.head
        try:
            self._begin(usual.push, usual.head.admitted_keys(self._peer, options, usual.push), body, usual.head)
        except ApiError:  # who parses it says why
            return False
        self._lessons = MAX_LESSONS
        return True

    # httptools' callbacks

    def on_message_begin(self) -> None:
        # The rest of what uvicorn does here is done when it turns out that it is needed.
        self._between = False
        self.reads_head = True
        self.head_size = 0
        self.url = b""
        self.headers = []
        self._rests_since = None  # it may have come in one piece with the last one

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.reads_head:  # a trailer isn't merged into the head (RFC 9110 section 6.5.1)
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.reads_head = False
        push = self._lane.pushes.get(self.url)
        if push is None or not self._is_plain(push):
            self._hand_on()
            return
        self._push = push
        self.reads_body = True
        self._waits_since = None
        self._started = perf_counter()

    def _is_plain(self, push: Push) -> bool:
        """Is this the plain case, whose body is awaited?"""
        cycle, parser, options = self.cycle, self.parser, conf.options()
        if self.flow.write_paused or (cycle and not cycle.response_complete) or parser.get_method() != b"POST":
            return False
        if not parser.should_keep_alive():
            return False
        self._head = head = Head(self.headers, self._lane.session_header)
        if len(head.framing) != 1 or not (size := head.framing[0]).isdigit() or len(size) > 9:
            return False
        if int(size) > options.max_body_size or parser.get_http_version() != "1.1":
            return False
        try:
            self._keys = head.admitted_keys(self._peer, options, push)
        except ApiError:
            return False
        return True

    def _hand_on(self, body: bytes | None = None) -> None:
        """Let uvicorn have the request, and its body if that is all there."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        for header in headers:
            super().on_header(*header)
        super().on_headers_complete()
        if body is not None:
            super().on_body(body)
            super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        self.head_size = 0
        if self._push:
            self._body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._between = True
        push, self._push = self._push, None
        if push is None:
            super().on_message_complete()
            return
        body = bytes(self._body)
        self._body.clear()
        self.reads_body = False
        self._waits_since = None
        try:
            self._begin(push, self._keys, body, self._head)
        except ApiError:  # the view says why
            self._hand_on(body)
        else:
            self._taken = push, self.url, body

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
        if isinstance(rest, Pending):
            rest.when_done(lambda done: self._answer(*tally.answer(done, keys), waiting))
            return
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
        """uvicorn ends: what has begun to come in is still answered."""
        if self._push:
            self._push = None
            self._hand_on()
            super().on_body(bytes(self._body))
        waiting: Any = self.cycle
        if isinstance(waiting, Waiting) and not waiting.response_complete:
            self._run(self._watch_over(waiting))
        super().shutdown()
