"""Who took part in a slice of `python -m bench cluster`, and what each one's clocks and counters say of it.

Used by bench.cluster_work. They are read just before and after each slice, so that what the other sides do in between
is not in the figures.
"""

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .processes import TICKS, clocks, cpu_seconds
from .redis import COUNTERS
from .work import Stage


class Meter:
    """Adds up the CPU seconds of each process, those that the machine was idle, and Redis' counters."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.proxies: defaultdict[int, float] = defaultdict(float)  # pid -> CPU seconds
        self.total: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what happens inside."""
        counters = self.stage.servers.redis.counters() if self.stage.servers.redis else {}
        processes, machine = self.processes(), self.machine()
        yield
        for name, value in self.machine().items():
            self.total[name] += value - machine[name]
        for pid, seconds in self.processes().items():
            self.proxies[pid] += seconds - processes.get(pid, 0.0)
        if self.stage.servers.redis:
            for name, value in self.stage.servers.redis.counters().items():
                self.total[name] += value - counters[name]

    def processes(self) -> dict[int, float]:
        """Return the CPU seconds of each process of the proxies."""
        return {pid: used for server in self.stage.servers.processes for pid, used in clocks(server.pid).items()}

    def machine(self) -> dict[str, float]:
        """Return the seconds that have passed on all cores, those that they were idle, and what load and Redis used."""
        idle, waiting = map(int, Path("/proc/stat").read_text().split(None, 6)[4:6])
        return {
            "core_seconds": time.monotonic() * (os.cpu_count() or 1),
            "idle": (idle + waiting) / TICKS,
            "load": cpu_seconds(self.stage.load.pid),
            "redis": sum(cpu_seconds(redis.pid) for redis in self.stage.redises()),
        }

    def measures(self, name: str, count: float) -> dict[str, float]:
        """Return CPU per piece of work by part, each part's share of the cores, and what went through Redis.

        `bound_per_second` is how much all cores would do at this CPU per piece, load process included.
        """
        proxies = sorted(self.proxies.values(), reverse=True)
        workers = {f"worker{number}": used for number, used in enumerate([*proxies, 0.0][:2], 1)}
        parts = {"load": self.total["load"], "proxy": sum(proxies)}
        if self.stage.servers.redis:
            parts["redis"] = self.total["redis"]
        shares = {"redis": 0.0, **parts, **workers, "idle": self.total["idle"]}
        found = {f"{name}_{part}_cpu_us": used / count * 1e6 for part, used in parts.items()}
        found |= {f"{name}_{part}_share": used / self.total["core_seconds"] for part, used in shares.items()}
        found[f"{name}_bound_per_second"] = count * (os.cpu_count() or 1) / sum(parts.values())
        if self.stage.servers.redis:
            found |= {f"{name}_{counter}": self.total[counter] / count for counter in COUNTERS}
        return found

    def redis_cpu_us(self, name: str, counter: str, count: float) -> dict[str, float]:
        """Return all of Redis' CPU over the calls of one command, as the measure `name`; nothing for a few calls.

        A few are those by which a process watches its connection to Redis, and are not what is measured.
        """
        calls = self.total[counter]
        return {name: self.total["redis"] / calls * 1e6} if calls > count / 2 else {}
