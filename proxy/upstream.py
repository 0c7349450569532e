"""What stands between callbacks and one backend: `shield` for its few workers, `breaker` while it gives no answers.

`callbacks` passes through here when one of them is configured, and doesn't otherwise.
"""

import contextlib
from collections.abc import AsyncIterator
from time import monotonic
from urllib.parse import urlsplit

from proxy.breaker import Breaker
from proxy.conf import Options
from proxy.exceptions import BackendBusy, CallbackError, NoBackendAnswer
from proxy.shield import ORDER, Shield
from proxy.stats import stats

NO_LIMIT = 1 << 30
MAX_RECEIVES = 10_000  # that wait; there is one for each session, but also for clients that have gone


class Upstream:
    """One backend, and the callbacks to it of one event loop."""

    def __init__(self, place: str, options: Options) -> None:
        limit = options.callback_limit or NO_LIMIT
        limits = {
            "connect": options.connect_limit or limit,
            "receive": options.receive_limit or limit,
            "close": options.close_limit or limit,
        }
        limits["establish"] = limits["connect"]
        waiting = {
            # Only who was let in gets here, and nobody is while these wait, so there are few.
            "establish": NO_LIMIT,
            "connect": options.callback_queue_size,
            "receive": MAX_RECEIVES,
            "close": options.callback_queue_size,
        }
        self._shield = Shield(limit, limits, waiting)
        self._breaker = Breaker(place, options.breaker_failures)
        timeout = options.callback_timeout
        # A client waits for connect and establish, so their time in line is part of callback.timeout; a frame waits
        # like its client does, for as long as it takes.
        self._patience = {
            "establish": timeout / 2 or None,
            "connect": timeout / 2 or None,
            "receive": None,
            "close": timeout or None,
        }

    @contextlib.asynccontextmanager
    async def turn(self, kind: str) -> AsyncIterator[float]:
        """Around one callback; the seconds of its time-out that are over already. Raises BackendBusy instead of it."""
        began = monotonic()
        try:
            probe = self._breaker.enter()
        except BackendBusy:
            self._count_refusal()
            raise
        try:
            try:
                await self._shield.enter(kind, self._patience[kind])
            except BackendBusy:
                self._count_refusal()
                raise
            try:
                yield monotonic() - began if kind in ("connect", "establish") else 0.0
            except NoBackendAnswer:
                if self._breaker.failed(probe, began):
                    self._shield.clear(self._breaker.refusal())
                raise
            except CallbackError:
                self._breaker.answered(probe)
                raise
            else:
                self._breaker.answered(probe)
            finally:
                self._shield.leave(kind)
        finally:
            if probe:
                self._breaker.leave(probe)

    def _count_refusal(self) -> None:
        stats.callbacks_refused += 1
        self._breaker.refused += self._breaker.is_open


def upstreams(options: Options) -> dict[str, Upstream]:
    """By kind of callback; those of one scheme, host and port have the same. Empty: nothing is configured."""
    limits = (options.callback_limit, options.connect_limit, options.receive_limit, options.close_limit)
    if not any(limits) and not options.breaker_failures:
        return {}
    found: dict[str, Upstream] = {}
    by_kind: dict[str, Upstream] = {}
    for kind in ORDER:
        parts = urlsplit(getattr(options, f"{kind}_callback"))
        place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"  # it gets into the log: no user and password
        if parts.netloc:
            by_kind[kind] = found.setdefault(place, Upstream(place, options))
    return by_kind
