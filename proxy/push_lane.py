"""The push lane: POST /send and /close taken in uvicorn's HTTP protocol, before there is a scope, a cycle or a task.

It takes the plain case only: a request with Content-Length on a connection that has nothing else to do, which is
admitted and well-formed. It hands everything else on, to the Django view, which does the same and says what is wrong;
so what it answers itself are deliveries, byte for byte as the view does (docs/performance.md).
"""

import asyncio
from collections.abc import Iterable
from time import perf_counter
from typing import Any

from proxy import conf
from proxy.exceptions import ApiError
from proxy.push_answers import PushAnswers, lane
from proxy.pushes import Head, Push
from proxy.repeated_head import RepeatedHead, learn

MAX_LESSONS = 3  # heads of a connection that are learnt in vain before it is taken to have no usual one


def hand_all_on(connections: Iterable[object]) -> None:
    """From now on uvicorn gets every request of these, and each answer closes its connection, also those under way."""
    for own_listener in (False, True):
        lane(own_listener).pushes = {}
    for each in connections:
        if isinstance(each, PushLane):
            each.leave_lane()
            if each.cycle and not each.pipeline:
                each.cycle.keep_alive = False


class PushLane(PushAnswers):
    """uvicorn's HTTP protocol with the lane in front of it."""

    reads_head = True
    """No head has come in whole since the last request."""
    head_size = 0
    """Bytes of the head, or of what may be trailers, for who counts them; a piece of the body puts it back."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The push whose body is coming in, if there is one.
        self._push: Push | None = None
        self._keys: list[str]
        self._body = bytearray()
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
        if self.flow.write_paused or self._rest or (cycle and not cycle.response_complete):
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
        if self.ignores_upgrade():
            return
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
        self._between = not self._reads_again
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

    def leave_lane(self) -> None:
        """uvicorn gets what has begun to come in, and all that follows."""
        self._usual = None
        if self._push:
            self._push = None
            self._hand_on()
            super().on_body(bytes(self._body))

    def shutdown(self) -> None:
        """uvicorn ends: what has begun to come in is still answered."""
        self.leave_lane()
        super().shutdown()
