"""The kinds of work a server is measured at, one small class each, done in order on started servers.

Used by bench.run, which makes one set of works per server and does them slice by slice, turn and turn about, so that
what ails the machine for a second falls on all servers alike. Each work ends with its measures by name;
bench.comparison and bench.cluster_report give them titles and units.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from proxy import keepalive

from .ground import Servers
from .processes import BenchError, Process, cpu_seconds, memory_kib

ANSWER_SECONDS = 30.0  # for the load process, over what a command itself may take
OPEN_SECONDS = 120.0

KINDS = ("connect", "send", "fanout", "paced", "receive", "batch", "memory")


@dataclass(frozen=True)
class Plan:
    """How much work is done. Times are in seconds, sizes in bytes."""

    connections: int = 1000
    senders: int = 32
    size: int = 64
    large: int = 16_384  # the other size; 0: none
    keys: int = 200
    batch: int = 1000  # sessions of a batch, each with a message of its own
    seconds: float = 3.0
    slices: int = 6
    warm_up: float = 0.5
    settle: float = 1.5
    warm_up_connections: int = 64
    memory_connections: int = 10_000
    concurrency: int = 32
    cap: int = 1_000_000  # requests per slice
    rate: int = 2000  # sends per second of the open loop
    work: tuple[str, ...] = KINDS
    busy_rate: int = (
        4000  # this and the rest are for bench.cluster: as rate, but about what a full cluster's process gets
    )
    many_senders: int = 128  # enough to keep all workers busy
    crowd: int = 32  # bare clients of Redis
    workers: int = 2
    idle: float = keepalive.INTERVAL  # a pause in which every connection is pinged once


COMPARISON = Plan(seconds=1.5, warm_up=0.25, settle=1.0, rate=5000)  # as many systems as `python -m bench` has


@dataclass(frozen=True)
class Stage:
    """The started servers of a system with the load process that is tied to them."""

    plan: Plan
    servers: Servers
    load: Process
    send_port: int | None = None  # where pushes go; None: to the clients' port
    backend_port: int = 0
    lacks: frozenset[str] = frozenset()  # kinds of work that the system has no equivalent of

    def cpu(self) -> float:
        """Return the CPU seconds that all servers have used so far, Redis among them."""
        return sum(cpu_seconds(process.pid) for process in (*self.servers.processes, *self.redises()))

    def memory(self, kind: str = "Pss") -> float:
        """Return the proportional set size of the servers in KiB; Redis says its own."""
        return sum(memory_kib(process.pid, kind) for process in self.servers.processes)

    def redises(self) -> list[Process]:
        """Return the Redis server, if there is one."""
        return [self.servers.redis] if self.servers.redis else []

    def open(self, count: int) -> dict[str, Any]:
        """Open further clients."""
        return self.load.ask(OPEN_SECONDS, do="open", count=count, concurrency=self.plan.concurrency)

    def send(
        self,
        keys: int,
        seconds: float,
        rate: float | None = None,
        senders: int | None = None,
        size: int | None = None,
        kind: str = "push",
    ) -> dict[str, Any]:
        """Push for some seconds with `keys` sessions per request; raise BenchError unless everything arrived."""
        count = senders or self.plan.senders
        self.load.ask(ANSWER_SECONDS, do="connect_senders", count=count, port=self.send_port)
        result = self.load.ask(
            seconds + 2 * ANSWER_SECONDS,
            do="send",
            kind=kind,
            keys_per_send=keys,
            size=size or self.plan.size,
            seconds=seconds,
            cap=self.plan.cap,
            rate=rate,
        )
        return self.whole(result)

    def talk(self, seconds: float, size: int) -> dict[str, Any]:
        """Let clients send messages for some seconds; raise BenchError unless all of them reached the backend."""
        return self.whole(
            self.load.ask(
                seconds + 2 * ANSWER_SECONDS,
                do="talk",
                port=self.backend_port,
                size=size,
                seconds=seconds,
                talkers=self.plan.senders,
            )
        )

    def whole(self, result: dict[str, Any]) -> dict[str, Any]:
        """Return a result if nothing was lost; else raise BenchError."""
        if not result["delivered"] or result["delivered"] != result["sent"] or result["lost_connections"]:
            raise BenchError(
                f"expected every message to arrive but got {result} from {self.servers.processes[0].command}"
            )
        return result


class Work:
    """Something a server is measured at: begin, then slices, a pause, and the measures."""

    name = "connections"

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


class Timed(Work):
    """Something done for some seconds, whose results tell what was sent, what arrived, and how long that took."""

    def __init__(self, stage: Stage, name: str) -> None:
        super().__init__(stage)
        self.name = name
        self.cpu = 0.0
        self.results: list[dict[str, Any]] = []

    def run(self, seconds: float) -> dict[str, Any]:
        """Do it for some seconds."""
        raise NotImplementedError

    def begin(self) -> None:
        self.run(self.plan.warm_up)

    def slice(self, number: int) -> None:
        before = self.stage.cpu()
        self.results.append(self.run(self.plan.seconds / self.slices()))
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


class Send(Timed):
    """Push to `keys` sessions per request: at a rate, or from each sender as soon as its last request is answered."""

    def __init__(
        self,
        stage: Stage,
        name: str,
        keys: int,
        rate: float | None = None,
        senders: int | None = None,
        size: int | None = None,
        kind: str = "push",
    ) -> None:
        super().__init__(stage, name)
        self.senders = senders
        self.keys = keys
        self.rate = rate
        self.size = size
        self.kind = kind

    def run(self, seconds: float) -> dict[str, Any]:
        return self.stage.send(self.keys, seconds, self.rate, self.senders, self.size, self.kind)


class Receive(Timed):
    """Clients send messages, each as soon as the backend has its last one."""

    def __init__(self, stage: Stage, name: str, size: int) -> None:
        super().__init__(stage, name)
        self.size = size

    def run(self, seconds: float) -> dict[str, Any]:
        return self.stage.talk(seconds, self.size)


class Memory(Work):
    """Open many connections on a server of its own that did nothing before, and let them be idle."""

    def slices(self) -> int:
        return 1

    def slice(self, number: int) -> None:
        self.memory = self.stage.memory()
        self.stage.open(self.plan.memory_connections)

    def end(self) -> dict[str, float]:
        return {"idle_memory_kib": (self.stage.memory() - self.memory) / self.plan.memory_connections}


Row = dict[str, Work]  # the same kind of work, by the name of the system


def rows(stages: Mapping[str, Stage], plan: Plan) -> Iterator[Row]:
    """Yield all work but Memory in order; who lacks a kind is left out there, and a kind that isn't asked for is."""

    def row(kind: str, make: Callable[[Stage], Work]) -> Row:
        able = {name: stage for name, stage in stages.items() if kind in plan.work and kind not in stage.lacks}
        return {name: make(stage) for name, stage in able.items()}

    yield {name: WarmUp(stage) for name, stage in stages.items()}
    yield {name: Connect(stage) for name, stage in stages.items()}
    for size, label in [(plan.size, ""), *([(plan.large, "_large")] if plan.large else [])]:
        yield row("send", partial(Send, name=f"send{label}", keys=1, size=size))
        yield row("fanout", partial(Send, name=f"fanout{label}", keys=plan.keys, size=size))
        yield row("paced", partial(Send, name=f"paced{label}", keys=1, rate=plan.rate, size=size))
        yield row("receive", partial(Receive, name=f"receive{label}", size=size))
    yield row("batch", partial(Send, name="batch", keys=plan.batch, kind="batch"))
