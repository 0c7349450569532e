"""What is counted of a callback: how long it took, and what came of it (`Stats.callbacks`). Used by `callbacks`."""

from collections.abc import Coroutine
from time import perf_counter
from typing import Any

from proxy.exceptions import CallbackError, NoBackendAnswer
from proxy.http_connection import Answer
from proxy.stats import Stats, stats


async def counted(name: str, exchange: Coroutine[Any, Any, Answer]) -> Answer:
    """A callback under way, whose time and outcome are counted."""
    began, result = perf_counter(), "cancelled"
    try:
        answer = await exchange
        result = "ok" if answer.status == 200 else "refused"
    except NoBackendAnswer:
        result = "no_answer"
        raise
    except CallbackError:
        result = "invalid"
        raise
    finally:
        stats.observe(Stats.callback_seconds[name], perf_counter() - began)
        stats.add(Stats.callbacks[name, result])
    return answer
