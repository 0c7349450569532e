"""What no event tells, only looking: how late the event loop is, and how much waits. Once a second, in each process.

`lifespan` begins and ends it. What it finds goes into the process's slot of `stats`, so that any process can tell it.
"""

import asyncio
from weakref import WeakSet

from proxy import delivery, registry
from proxy.stats import Stats, stats

PERIOD = 1.0  # seconds

_LAG = Stats.loop_lag[()]

_sampled: "WeakSet[asyncio.AbstractEventLoop]" = WeakSet()


def begin() -> None:
    """Look now, and from now on, until the running event loop ends. A second time does nothing."""
    loop = asyncio.get_running_loop()
    if loop not in _sampled:
        _sampled.add(loop)
        stats.workers = 1
        _look(loop, loop.time())


def end() -> None:
    """Don't look any more. A look at the layer after the process has left the cluster would connect it anew."""
    _sampled.discard(asyncio.get_running_loop())


def _look(loop: asyncio.AbstractEventLoop, due: float) -> None:
    if loop not in _sampled:
        return
    stats.observe(_LAG, max(0.0, loop.time() - due))
    loop.call_at(loop.time() + PERIOD, _look, loop, loop.time() + PERIOD)
    layer = delivery.layer()
    stats.redis_up, stats.redis_down = layer.links()
    stats.cluster_requests = layer.under_way()
    if found := registry.running():
        stats.registry_failing = bool(found.problem)
        stats.registry_backlog = found.journal.backlog()
        stats.registry_lag_ms = round(found.journal.lag() * 1000)
