"""What the tests share that try random input: how often, and a loop of their own for servers.

Hypothesis' examples are plain functions, so servers that they talk to live in a loop that runs while one does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

from hypothesis import HealthCheck, Phase, settings

from tests.backend import Backend
from tests.servers import Servers

Result = TypeVar("Result")


def examples(count: int) -> settings:
    """Try a property with real processes `count` times; FUZZ_EXAMPLES times with `make fuzz`."""
    return settings(
        max_examples=int(os.environ.get("FUZZ_EXAMPLES", count)),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        # Smaller examples would be found in many minutes, where a failure is a wait in vain.
        phases=(Phase.explicit, Phase.generate),
    )


class World:
    """A backend, and the servers that call it; `start` and `end` are to be extended."""

    def __init__(self, logs: Path, redis_url: str = "") -> None:
        # Made by a factory, a runner leaves the loop of the other tests alone.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self.backend = Backend()
        self.servers = Servers(self.backend, logs, redis_url)

    @classmethod
    @contextlib.contextmanager
    def running(cls, *arguments: Any) -> Iterator[Self]:
        """Made of these arguments, started, and closed at the end."""
        world = cls(*arguments)
        try:
            world.do(world.start())
            yield world
        finally:
            world.close()

    def do(self, what: Awaitable[Result]) -> Result:
        """Have the loop run until this is done."""

        async def wait() -> Result:
            return await what

        return self._runner.run(wait())

    async def start(self) -> None:
        """Start everything."""
        await self.backend.start()

    async def end(self) -> None:
        """End everything; nothing may have been wrong in the logs."""
        await self.servers.stop()
        await self.backend.stop()
        complaints = self.servers.complaints()
        assert not complaints, "\n\n".join(complaints)

    def close(self) -> None:
        """End everything, and leave the loop."""
        try:
            self.do(self.end())
        finally:
            self._runner.close()
