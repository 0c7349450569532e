"""A worker of `runproxy --workers`, as its own process sees it: what it and the supervisor tell each other, by signals.

Also how one that runs the code now on disk takes over: it is executed, with the descriptors of sockets and counters.
"""

import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import NoReturn, Self

from proxy.conf import Options
from proxy.stats import stats

# Real-time signals: they are queued, so none is lost, and nobody else sends them. Only Linux has workers, and them.
_FIRST: int = getattr(signal, "SIGRTMIN", 0)
LEAVE = _FIRST  # to a worker: your successor serves; accept nobody any more, drain, end
END = _FIRST + 1  # to a worker, from the kernel too when the supervisor dies: all end
READY = _FIRST + 2  # from a worker: I can do all my work
REPLACE = _FIRST + 3  # from a worker that was asked to end: start my successor first

_FIXED = (
    *("port", "host", "sock", "api_port", "api_host", "api_sock"),  # the sockets stay those of the supervisor
    *(
        "redis_url",
        "redis_sentinels",
        "redis_master",
        "redis_prefix",
        "registry",
        "database_url",
    ),  # or they'd be two nodes
)

logger = logging.getLogger("proxy.worker")


@dataclass
class Worker:
    """This process as a worker."""

    number: int
    """From 0."""
    supervisor: int
    """Its process id."""
    waits: bool
    """Does it accept clients only when it can do all its work? Until then its predecessor does."""
    on_leave: Callable[[], None] = lambda: sys.exit(0)
    on_end: Callable[[], None] = lambda: sys.exit(0)

    @property
    def name(self) -> str:
        return name(self.number, os.getpid())

    def take_signals(self) -> None:
        """From now on the supervisor's mean something."""
        signal.signal(LEAVE, lambda *_: self.on_leave())
        signal.signal(END, lambda *_: self.on_end())

    def tell(self, number: int) -> None:
        """READY or REPLACE to the supervisor. If that is dead, END is on its way."""
        if os.getppid() == self.supervisor:
            os.kill(self.supervisor, number)


def name(number: int, pid: int) -> str:
    """A worker in the log."""
    return f"worker {number + 1} (pid {pid})"


@dataclass(frozen=True, slots=True)
class HandOver:
    """What a worker that is executed anew gets from its supervisor: numbers, and descriptors of what is open."""

    number: int
    slot: int
    supervisor: int
    waits: bool
    listeners: list[int]
    stats: int
    options: dict[str, str]
    """Those that must be the same for all workers."""

    def execute(self) -> NoReturn:
        """Become a new process of the supervisor's command line, which runs what is on disk now."""
        message = os.memfd_create("kuiperbelt-hand-over", 0)
        with open(message, "w", encoding="utf-8", closefd=False) as file:
            json.dump(asdict(self), file)
        for descriptor in (*self.listeners, self.stats):
            os.set_inheritable(descriptor, True)
        try:
            # The supervisor's own words.
            command = [sys.executable, *sys.orig_argv[1:], "--take-over", str(message)]
            os.execv(sys.executable, command)  # noqa: S606  # nosec B606
        except OSError as error:
            logger.error("%s can't be executed: %s", sys.executable, error.strerror)
        os._exit(1)

    @classmethod
    def read(cls, message: int) -> Self:
        """Raises OSError or ValueError if the descriptor isn't from `execute`."""
        with open(message, encoding="utf-8") as file:
            file.seek(0)
            content = json.load(file)
        names = [field.name for field in fields(cls)]
        if missing := [each for each in names if each not in content]:  # it is of an older version
            raise ValueError(f"expected {', '.join(missing)} from the supervisor, found nothing: it needs a restart")
        return cls(**{each: content[each] for each in names})

    def take(self, options: Options) -> tuple[Worker, tuple[socket.socket, ...]]:
        """This process is the worker from now on, with these listening sockets. Raises ValueError."""
        now = fixed(options)
        if changed := [key for key, value in self.options.items() if now.get(key, value) != value]:
            raise ValueError(f"{', '.join(changed)}: changed, but only a restart takes that")
        stats.attach(self.stats, self.slot)
        stats.worker = self.number + 1
        os.set_inheritable(self.stats, False)
        sockets = tuple(socket.socket(fileno=descriptor) for descriptor in self.listeners)
        for each in sockets:
            each.set_inheritable(False)
        worker = Worker(self.number, self.supervisor, self.waits)
        worker.take_signals()
        return worker, sockets


def fixed(options: Options) -> dict[str, str]:
    """The options that all workers of a supervisor must have alike, by their YAML keys."""
    keys = {spec.name: str(spec.metadata["key"]) for spec in fields(Options)}
    return {keys[each]: repr(getattr(options, each)) for each in _FIXED} | {"tls_cert": repr(bool(options.tls_cert))}
