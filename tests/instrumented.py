"""`manage.py runproxy`, or daphne, with what can't be caused, or seen, from outside.

Servers of the kinds "instrumented" and "instrumented-daphne" run this. PING_INTERVAL: seconds between the pings of a
connection. WATCH_LEASE: seconds that a watch lasts. STALLED: seconds that an HTTP answer may wait to be read.
SLOW_ENDS: seconds for which the end of each session blocks daphne. At SIGRTMIN a line of JSON is added to LOOK_FILE:
what the process holds. A frame "boom" from a client meets a bug in the handler, "boom later" one on its way to the
backend.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from django.core.management import execute_from_command_line


def look() -> dict[str, Any]:
    """How much the process holds of what could pile up."""
    tasks = Counter(task.get_coro().__qualname__ for task in asyncio.all_tasks())  # type: ignore[union-attr]
    garbage = gc.collect()
    return {
        "garbage": garbage,
        "tasks": tasks.total(),
        "names": dict(tasks),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "objects": len(gc.get_objects()),
    }


def write_look(*_: Any) -> None:
    """One line more in the file."""
    with Path(os.environ["LOOK_FILE"]).open("a") as file:
        file.write(json.dumps(look()) + "\n")


def break_handlers() -> None:
    """Put the bugs in."""
    from proxy import callbacks, consumers

    names = vars(consumers)
    read_frame, receive = names["read_frame"], callbacks.Callbacks.receive

    def read(message: dict[str, Any]) -> Any:
        if message.get("text") == "boom":
            raise RuntimeError("a bug that a test put in")
        return read_frame(message)

    async def deliver(self: Any, session: Any, frame: Any) -> Any:
        if frame.payload == "boom later":
            raise RuntimeError("a bug that a test put in")
        return await receive(self, session, frame)

    names["read_frame"] = read
    callbacks.Callbacks.receive = deliver  # type: ignore[method-assign]


def slow_down_ends(seconds: float) -> None:
    """As a machine with too much to do is."""
    import django

    django.setup()
    from proxy.consumers import SessionConsumer

    leave = SessionConsumer.leave

    def leave_slowly(self: Any, end: Any) -> None:
        if not self.ended:
            time.sleep(seconds)
        leave(self, end)

    SessionConsumer.leave = leave_slowly  # type: ignore[method-assign]


def main() -> None:
    """Serve."""
    from proxy import flow, keepalive, watching

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kbproject.settings")
    if interval := os.environ.get("PING_INTERVAL"):
        keepalive.INTERVAL = float(interval)
    if lease := os.environ.get("WATCH_LEASE"):
        vars(watching)["LEASE"] = float(lease)
    if stalled := os.environ.get("STALLED"):
        flow.STALLED = float(stalled)
    if sys.argv[1:]:  # daphne's
        from daphne.cli import CommandLineInterface

        if slow := os.environ.get("SLOW_ENDS"):
            slow_down_ends(float(slow))
        CommandLineInterface.entrypoint()
        return
    signal.signal(signal.SIGRTMIN, write_look)
    import django

    django.setup()
    break_handlers()
    execute_from_command_line([sys.argv[0], "runproxy"])


if __name__ == "__main__":
    main()
