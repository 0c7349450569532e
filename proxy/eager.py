"""Runs a coroutine in the caller's turn, up to where it waits for something. Most of those here never do, and a task
for each would cost more than their work."""

import types
from collections.abc import Awaitable, Coroutine, Generator
from functools import partial
from typing import Any, TypeVar, cast

T = TypeVar("T")


def start(coroutine: Coroutine[Any, Any, T]) -> T | Awaitable[T]:
    """The coroutine's result if it never waited, else what is left of it, to be awaited. Raises what it raises."""
    try:
        awaited = coroutine.send(None)
    except StopIteration as end:
        return cast(T, end.value)
    return cast(Awaitable[T], _resume(coroutine, awaited))


@types.coroutine
def _resume(coroutine: Coroutine[Any, Any, T], awaited: Any) -> Generator[Any, None, T]:
    while True:
        try:
            yield awaited
        except BaseException as error:
            step = partial(coroutine.throw, error)
        else:
            step = partial(coroutine.send, None)
        try:
            awaited = step()
        except StopIteration as end:
            return cast(T, end.value)
