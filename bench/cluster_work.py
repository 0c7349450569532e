"""The kinds of work of `python -m bench cluster`: those of bench.work, with what each process and Redis did for them.

Used by bench.cluster.
"""

import time
from collections.abc import Iterator, Mapping

from .meter import Meter
from .processes import clocks, cpu_seconds
from .work import ANSWER_SECONDS, Connect, Plan, Send, Stage, WarmUp, Work


class MeteredWarmUp(WarmUp):
    """The first connections; then the memory of a process that serves hardly anybody."""

    def end(self) -> dict[str, float]:
        processes = sum(len(clocks(server.pid)) for server in self.stage.servers.processes)
        return {"process_memory_kib": self.stage.memory() / processes}


class MeteredConnect(Connect):
    """The connections, with what Redis did and keeps for them."""

    def begin(self) -> None:
        self.meter = Meter(self.stage)
        self.redis_memory = self.stage.servers.redis.memory() if self.stage.servers.redis else 0
        super().begin()

    def slice(self, number: int) -> None:
        with self.meter.running():
            super().slice(number)

    def end(self) -> dict[str, float]:
        count = self.plan.connections
        found = {
            **super().end(),
            **self.meter.measures("connect", count),
            **self.meter.redis_cpu_us("redis_subscribe_us", "subscribes", count),
        }
        if self.stage.servers.redis:
            found["redis_session_bytes"] = (self.stage.servers.redis.memory() - self.redis_memory) / count
        return found


class MeteredSend(Send):
    """Pushes, with what each process and Redis did for them."""

    def begin(self) -> None:
        super().begin()
        self.meter = Meter(self.stage)

    def slice(self, number: int) -> None:
        with self.meter.running():
            super().slice(number)

    def end(self) -> dict[str, float]:
        delivered = sum(result["delivered"] for result in self.results)
        return {
            **super().end(),
            **self.meter.measures(self.name, delivered),
            **self.meter.redis_cpu_us(f"{self.name}_publish_us", "publishes", delivered / self.keys),
            f"{self.name}_request_bytes": self.results[0]["request_bytes"],
            f"{self.name}_response_bytes": self.results[0]["response_bytes"],
        }


class Idle(Work):
    """A pause as long as the time between two pings of a connection; the process without sessions is the yardstick."""

    def slices(self) -> int:
        return 0

    def pause(self) -> float:
        return self.plan.idle

    def begin(self) -> None:
        self.before = self.clocks()

    def end(self) -> dict[str, float]:
        holder, other, redis = (after - before for after, before in zip(self.clocks(), self.before, strict=True))
        return {
            "ping_cpu_us": (holder - other) / (self.plan.connections + self.plan.warm_up_connections) * 1e6,
            "idle_process_us": other / self.plan.idle * 1e6,
            "idle_redis_us": redis / self.plan.idle * 1e6,
        }

    def clocks(self) -> list[float]:
        """Return the CPU seconds of the process with the sessions, of the other one, and of Redis."""
        return [cpu_seconds(process.pid) for process in (*self.stage.servers.processes, *self.stage.redises())]


class AskRedis(Work):
    """Redis alone, busy with many clients that share nothing, as in a large installation."""

    def begin(self) -> None:
        self.ask(self.plan.warm_up)
        self.meter = Meter(self.stage)
        self.exchanges = 0

    def slice(self, number: int) -> None:
        with self.meter.running():
            self.exchanges += self.ask(self.plan.seconds / self.slices())

    def ask(self, seconds: float) -> int:
        """Let the clients ask each other; return how many requests were answered."""
        assert self.stage.servers.redis
        port, clients = self.stage.servers.redis.port, self.plan.crowd
        answer = self.stage.load.ask(seconds + ANSWER_SECONDS, do="crowd", port=port, clients=clients, seconds=seconds)
        return int(answer["exchanges"])

    def end(self) -> dict[str, float]:
        return self.meter.measures("crowd", self.exchanges)


class MeteredClose(Work):
    """All clients leave at once; what the proxies and Redis do about it, up to the end of the pause, is counted."""

    def slices(self) -> int:
        return 1

    def begin(self) -> None:
        self.meter = Meter(self.stage)

    def slice(self, number: int) -> None:
        with self.meter.running():
            self.closed = self.stage.load.ask(ANSWER_SECONDS, do="close")["closed"]
            time.sleep(self.plan.settle)

    def end(self) -> dict[str, float]:
        found = self.meter.measures("close", self.closed)
        return found | {"close_cpu_us": found["close_proxy_cpu_us"] + found.get("close_redis_cpu_us", 0.0)}


def timed_rows(stages: Mapping[str, Stage]) -> Iterator[dict[str, Work]]:
    """Yield the pushes that are due at fixed times, for these sides."""
    plan = next(iter(stages.values())).plan
    for name, stage in stages.items():
        if not name.endswith("remote"):
            stage.open(plan.connections)
    for kind, rate in (("paced", plan.rate), ("busy", plan.busy_rate)):
        yield {name: MeteredSend(stage, kind, 1, rate) for name, stage in stages.items()}


def rows(stages: Mapping[str, Stage]) -> Iterator[dict[str, Work]]:
    """Yield the kinds of work in order, each for its sides; `remote` has the sessions of `local`.

    The yardstick, likewise, only connects (and asks no backend for that) and does single pushes.
    """
    plan: Plan = stages["local"].plan
    bare = {"bare-local": stages["bare-local"]}
    ours = {name: stage for name, stage in stages.items() if not name.startswith("bare")}
    connecting = {name: stage for name, stage in ours.items() if name != "remote"}
    yield {name: MeteredWarmUp(stage) for name, stage in (connecting | bare).items()}
    yield {name: MeteredConnect(stage) for name, stage in (connecting | bare).items()}
    yield {"local": Idle(stages["local"])}
    yield {name: MeteredSend(stage, "send", 1) for name, stage in stages.items()}
    yield {name: MeteredSend(stage, "fanout", plan.keys) for name, stage in ours.items()}
    many = plan.many_senders
    yield {name: MeteredSend(stage, "full", 1, senders=many) for name, stage in connecting.items()}
    yield {"remote": AskRedis(stages["remote"])}
    yield {name: MeteredClose(stage) for name, stage in connecting.items()}
