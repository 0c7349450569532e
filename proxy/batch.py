"""POST {path.batch}: many pushes in one request, one JSON object a line, each answered by a line as soon as it is done.

`handlers` serves the view. Lines are read (`ndjson`, `batch_line`) and begun in their order, so that the order of each
session's frames is theirs; the answers come as the sessions take the frames. Request and answer are streams, and
what is held of either is bounded: nothing more is read while the caller doesn't take answers.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from django.http import StreamingHttpResponse

from proxy import batch_line, conf, protocol, pushes
from proxy.access import admit_peer
from proxy.batch_line import Id
from proxy.conf import Options
from proxy.delivery import Delivery
from proxy.exceptions import ApiError, BatchTooLarge, MethodNotAllowed, Unavailable
from proxy.handlers import ProxyRequest
from proxy.ndjson import Lines
from proxy.pushes import Head, Tally
from proxy.stats import Stats, stats

CONTENT_TYPE = "application/x-ndjson"
TURN = 64  # lines and sessions, after which others have theirs: a millisecond
_SENDS, _CLOSES = Tally(pushes.send, "batch"), Tally(pushes.close, "batch")
MAX_UNSENT = 1 << 16  # bytes of answers, over which they are sent before the next line


async def batch(request: ProxyRequest) -> StreamingHttpResponse:
    """The view."""
    running = Batch(request, conf.options())
    running.admit()
    if request.method != "POST":
        raise MethodNotAllowed
    # Not before the body begins: a final answer would come instead of 100 Continue.
    first = await request.read_piece()
    # nginx, which else would collect the answer, knows the second.
    return StreamingHttpResponse(
        running.answers(*first), content_type=CONTENT_TYPE, headers={"X-Accel-Buffering": "no"}
    )


class Batch:
    """One request."""

    def __init__(self, request: ProxyRequest, options: Options) -> None:
        self._request = request
        self._options = options
        self._head = Head(request.scope["headers"], options.session_header_name)
        self._lines = Lines(options.max_batch_line_size)
        self._number = 0
        """Of the line that was begun last; the first is 1."""
        self._waiting_for = 0
        """Sessions that haven't taken yet what was begun."""
        self._answers: list[bytes] = []
        self._unsent = 0
        """Bytes of these."""
        self._news: asyncio.Future[None] | None = None
        """There are answers, for whoever waits for that."""
        self._done_in_turn = 0
        self._reading: asyncio.Task[tuple[bytes, bool]] | None = None

    def admit(self) -> None:
        """Who asks may go on. Asked for each piece of the body, for a token may end meanwhile. Raises ApiError."""
        head = self._head
        self._grant = admit_peer(self._request.scope, head.forwarded, head.authorizations, conf.options())

    async def answers(self, piece: bytes, more: bool) -> AsyncIterator[bytes]:
        """The body of the answer. Raises ClientHungUp: what has come in whole is done, half a line is not."""
        try:
            try:
                while True:
                    for line in self._lines.feed(piece) + ([] if more else self._lines.end()):
                        await self._begin(line)
                        if self._done_in_turn >= TURN or self._unsent > MAX_UNSENT:
                            self._done_in_turn = 0
                            yield self._take()
                            await asyncio.sleep(0)
                        while self._waiting_for > self._options.batch_window:
                            yield await self._next_answers()
                    if self._answers:
                        yield self._take()
                    if not more:
                        break
                    if self._waiting_for:
                        self._reading = asyncio.ensure_future(self._request.read_piece())
                        while not self._reading.done():
                            yield await self._next_answers(self._reading)
                    piece, more = await (self._reading or self._request.read_piece())
                    self._reading = None
                    self.admit()
            except ApiError as error:  # for this line and all after it
                self._refuse(self._number + 1, None, error)
            while self._waiting_for:
                yield await self._next_answers()
        except asyncio.CancelledError:  # the server ends and this took too long
            self._refuse(self._number + 1, None, Unavailable("shutting down"))
        finally:
            if self._reading:
                self._reading.cancel()
        yield self._take()

    async def _begin(self, raw: bytes | None) -> None:
        """Do what the next line says. Raises BatchTooLarge if there may be no more."""
        limit, number = self._options.max_batch_lines, self._number + 1
        if limit and number > limit:
            raise BatchTooLarge(f"batch: expected at most {limit} lines (EKBO_MAX_BATCH_LINES)")
        self._number = number
        self._done_in_turn += 1
        if raw is not None and (not raw or raw.isspace()):
            return
        identity = None
        try:
            if raw is None:
                raise BatchTooLarge(
                    f"line: expected at most {self._options.max_batch_line_size} bytes (EKBO_MAX_BATCH_LINE_SIZE)"
                )
            line = batch_line.read(raw)
            identity = line.id
            keys = line.keys()
            if self._grant:
                self._grant.check("close" if line.close else "send", keys)
            self._done_in_turn += len(keys)
            begun = await line.begin(keys, self._options.max_body_size)
        except ApiError as error:
            self._refuse(number, identity, error)
            return
        tally = _CLOSES if line.close else _SENDS
        if isinstance(begun, Delivery):
            self._answer(number, identity, *tally.answer(begun, keys))
        else:
            self._waiting_for += len(keys)
            begun.when_done(partial(self._done, number, identity, keys, tally))

    def _done(self, number: int, identity: Id | None, keys: Sequence[str], tally: Tally, done: Delivery) -> None:
        self._waiting_for -= len(keys)
        self._answer(number, identity, *tally.answer(done, keys))

    def _refuse(self, number: int, identity: Id | None, error: ApiError) -> None:
        stats.add(Stats.api_refusals[str(error.status)])
        self._answer(number, identity, error.status, protocol.refusal_body(str(error)))

    def _answer(self, number: int, identity: Id | None, status: int, body: bytes) -> None:
        answer = batch_line.answer(number, identity, status, body)
        self._answers.append(answer)
        self._unsent += len(answer)
        if self._news and not self._news.done():
            self._news.set_result(None)

    async def _next_answers(self, *others: asyncio.Future[Any]) -> bytes:
        """All answers, as soon as there are some; maybe none when one of `others` is done."""
        if not self._answers:
            self._news = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._news, *others], return_when=asyncio.FIRST_COMPLETED)
        return self._take()

    def _take(self) -> bytes:
        taken = b"".join(self._answers)
        self._answers.clear()
        self._unsent = 0
        return taken
