"""uvicorn's HTTP protocol with one keep-alive timer per connection, which stays.

uvicorn starts one after each answer and cancels it at the next request, which is a tenth of what a push costs.
"""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class KeptAlive(HttpToolsProtocol):
    """Ends a connection on which nothing has come for uvicorn's `timeout_keep_alive` seconds since the last answer."""

    _rests_since: float | None = None  # the loop's time; None: a request is here, in part or whole

    def _unset_keepalive_if_required(self) -> None:
        self._rests_since = None

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._rests_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._watch(self.timeout_keep_alive)

    def _watch(self, delay: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(delay, self._end_if_at_rest)

    def _end_if_at_rest(self) -> None:
        self.timeout_keep_alive_task = None
        if self._rests_since is not None:
            left = self._rests_since + self.timeout_keep_alive - self.loop.time()
            if left > 0:
                self._watch(left)
            else:
                self.timeout_keep_alive_handler()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.timeout_keep_alive_task:
            self.timeout_keep_alive_task.cancel()
