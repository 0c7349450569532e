"""The kinds of work a server is measured at, one small class each, done in order on started servers.

Used by bench.run, which makes one set of works per server and does them slice by slice, turn and turn about, so that
what ails the machine for a second falls on all servers alike. Each work ends with its measures by name; `MEASURES` in
bench.report gives them a title and a unit.
"""

from dataclasses import dataclass
from statistics import median
from typing import Any

from proxy import keepalive

from .processes import BenchError, Process, cpu_seconds, memory_kib

ANSWER_SECONDS = 30.0  # for the load process, over what a command itself may take
OPEN_SECONDS = 120.0


@dataclass(frozen=True)
class Plan:
    """How much work is done. Times are in seconds, sizes in bytes."""

    connections: int = 1000
    senders: int = 32
    size: int = 64
    keys: int = 200
    seconds: float = 3.0
    slices: int = 6
    warm_up: float = 0.5
    settle: float = 1.5
    warm_up_connections: int = 64
    concurrency: int = 32
    cap: int = 1_000_000  # requests per slice
    rate: int = 2000  # sends per second of the open loop; this and the rest are for bench.cluster
    busy_rate: int = 4000  # as rate, but about what a process gets in a well-used cluster
    many_senders: int = 128  # enough to keep all workers busy
    crowd: int = 32  # bare clients of Redis
    workers: int = 2
    idle: float = keepalive.INTERVAL  # a pause in which every connection is pinged once


@dataclass(frozen=True)
class Stage:
    """A started server with the load process that is tied to it."""

    plan: Plan
    server: Process
    load: Process
    send_port: int | None = None  # where /send goes; None: to the clients' port

    def cpu(self) -> float:
        """Return the CPU seconds that the server's process tree has used so far."""
        return cpu_seconds(self.server.pid)

    def memory(self) -> float:
        """Return the proportional set size of the server's process tree in KiB."""
        return memory_kib(self.server.pid)

    def open(self, count: int) -> dict[str, Any]:
        """Open further clients."""
        return self.load.ask(OPEN_SECONDS, do="open", count=count, concurrency=self.plan.concurrency)

    def send(self, keys: int, seconds: float, rate: float | None = None, senders: int | None = None) -> dict[str, Any]:
        """Push for some seconds with `keys` sessions per request; raise BenchError unless everything arrived."""
        count = senders or self.plan.senders
        self.load.ask(ANSWER_SECONDS, do="connect_senders", count=count, port=self.send_port)
        result = self.load.ask(
            seconds + 2 * ANSWER_SECONDS,
            do="send",
            keys_per_send=keys,
            size=self.plan.size,
            seconds=seconds,
            cap=self.plan.cap,
            rate=rate,
        )
        if not result["delivered"] or result["delivered"] != result["sent"] or result["lost_connections"]:
            raise BenchError(f"expected every message to arrive but got {result} from {self.server.command}")
        return result


class Work:
    """Something a server is measured at: begin, then slices, a pause, and the measures."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.plan = stage.plan

    def slices(self) -> int:
        """Return in how many pieces the work is done."""
        return self.plan.slices

    def pause(self) -> float:
        """Return how many seconds to wait after the last slice."""
        return self.plan.settle

    def begin(self) -> None:
        """Do what is not measured but must come first."""

    def slice(self, number: int) -> None:
        """Do the piece `number`, counted from 0."""

    def end(self) -> dict[str, float]:
        """Return the measures, after all slices and the pause."""
        return {}


class WarmUp(Work):
    """Open some connections, so that what the first one imports and caches is not measured."""

    def slices(self) -> int:
        return 0

    def begin(self) -> None:
        self.stage.open(self.plan.warm_up_connections)


class Connect(Work):
    """Open the connections and let them settle: CPU from the first to the last open, and memory after settling."""

    def begin(self) -> None:
        # Nothing big may be freed before this, be it a connection or a message: new connections would take its place
        # in the heap and their memory would not be seen. So it comes before the sends, and warm-up connections stay.
        self.memory = self.stage.memory()
        self.cpu = self.stage.cpu()
        self.open_cpu = self.seconds = 0.0

    def slice(self, number: int) -> None:
        total, slices = self.plan.connections, self.slices()
        count = total * (number + 1) // slices - total * number // slices
        if count:
            cpu = self.stage.cpu()
            self.seconds += self.stage.open(count)["seconds"]
            self.open_cpu += self.stage.cpu() - cpu

    def end(self) -> dict[str, float]:
        count = self.plan.connections
        return {
            "connect_cpu_us": self.open_cpu / count * 1e6,
            "connect_settled_cpu_us": (self.stage.cpu() - self.cpu) / count * 1e6,
            "connects_per_second": count / self.seconds,
            "memory_kib": (self.stage.memory() - self.memory) / count,
        }


class Send(Work):
    """Push to `keys` sessions per request: at a rate, or from each sender as soon as its last request is answered."""

    def __init__(
        self, stage: Stage, name: str, keys: int, rate: float | None = None, senders: int | None = None
    ) -> None:
        super().__init__(stage)
        self.senders = senders
        self.name = name
        self.keys = keys
        self.rate = rate
        self.cpu = 0.0
        self.results: list[dict[str, Any]] = []

    def begin(self) -> None:
        self.stage.send(self.keys, self.plan.warm_up, self.rate, self.senders)

    def slice(self, number: int) -> None:
        before = self.stage.cpu()
        seconds = self.plan.seconds / self.slices()
        self.results.append(self.stage.send(self.keys, seconds, self.rate, self.senders))
        self.cpu += self.stage.cpu() - before

    def end(self) -> dict[str, float]:
        sent, delivered, seconds = (
            sum(result[name] for result in self.results) for name in ("sent", "delivered", "seconds")
        )
        return {
            f"{self.name}_cpu_us": self.cpu / delivered * 1e6,
            f"{self.name}_per_second": delivered / seconds,
            f"{self.name}_p50_ms": median(result["p50_ms"] for result in self.results),
            f"{self.name}_p99_ms": median(result["p99_ms"] for result in self.results),
            f"{self.name}_sent": sent,
            f"{self.name}_delivered": delivered,
        }


def works(stage: Stage) -> list[Work]:
    """Return what is done with every server, in order."""
    return [WarmUp(stage), Connect(stage), Send(stage, "send", 1), Send(stage, "fanout", stage.plan.keys)]
