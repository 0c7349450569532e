"""The cluster's rounds: who stands where. Used by bench.cluster_command; the work itself is in bench.cluster_work.

Six sides take turns. `alone` is one process without Redis. `local` and `remote` are two processes A and B with one
Redis, all sessions on A: the sends go to A or to B. `workers` is `runproxy --workers N` with Redis, sessions and sends
on its port. `bare-local` and `bare-remote` are `local` and `remote` of the yardstick (bench.bare_cluster).
Latencies are taken with few of them at a time: idle ones do little, but on two cores that is felt.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from .cluster_work import rows, timed_rows
from .ground import Ground, Servers, ground
from .processes import Process, free_port
from .redis import RedisServer
from .run import Round, take_turns
from .systems import SYSTEMS
from .work import Plan, Stage, Work

SIDES = ("alone", "local", "remote", "workers", "bare-local", "bare-remote")
SYSTEM, BARE = SYSTEMS["ours-uvicorn"], SYSTEMS["bare-uvicorn"]


def proxy(on: Ground, port: int, redis: RedisServer | None, *arguments: str) -> Process:
    """Start a proxy and wait until it answers."""
    environment = SYSTEM.environment(on, port)
    if redis:
        environment["EKBO_REDIS_URL"] = redis.url
    process = on.launch([*SYSTEM.command(on, port), *arguments], environment)
    process.wait_ready(port, SYSTEM.ping_path)
    return process


@contextmanager
def alone(plan: Plan) -> Iterator[Stage]:
    """One process without Redis."""
    with ground() as on:
        port = free_port()
        servers = Servers((proxy(on, port, None),), port)
        yield Stage(plan, servers, on.load(SYSTEM.name, port))


@contextmanager
def pair(plan: Plan) -> Iterator[Stage]:
    """Two processes and one Redis; clients and sends at the first."""
    with ground() as on:
        redis = on.redis()
        ports = free_port(), free_port()
        processes = tuple(proxy(on, port, redis) for port in ports)
        yield Stage(plan, Servers(processes, *ports, redis), on.load(SYSTEM.name, ports[0]))


@contextmanager
def workers(plan: Plan) -> Iterator[Stage]:
    """One runproxy with several workers."""
    with ground() as on:
        redis = on.redis()
        port = free_port()
        servers = Servers((proxy(on, port, redis, "--workers", str(plan.workers)),), port, redis=redis)
        time.sleep(plan.settle)  # the others may still be on their way when the first one answers
        yield Stage(plan, servers, on.load(SYSTEM.name, port))


@contextmanager
def bare_pair(plan: Plan) -> Iterator[Stage]:
    """As `pair`, of the yardstick."""
    with ground() as on:
        redis = on.redis()
        ports = free_port(), free_port()
        command = [sys.executable, "-m", "bench.bare_cluster", "--redis", str(redis.port), "--port"]
        processes = tuple(on.launch([*command, str(port)]) for port in ports)
        for process, port in zip(processes, ports, strict=True):
            process.wait_ready(port, BARE.ping_path)
        yield Stage(plan, Servers(processes, *ports, redis), on.load(BARE.name, ports[0]))


def pairs(stack: ExitStack, plan: Plan) -> dict[str, Stage]:
    """Start the sides that are a pair of processes and Redis."""
    local, bare = stack.enter_context(pair(plan)), stack.enter_context(bare_pair(plan))
    return {
        "local": local,
        "remote": replace(local, send_port=local.servers.send_port),
        "bare-local": bare,
        "bare-remote": replace(bare, send_port=bare.servers.send_port),
    }


def nodes(stack: ExitStack, plan: Plan) -> dict[str, Stage]:
    """Start the sides that have one port."""
    return {"alone": stack.enter_context(alone(plan)), "workers": stack.enter_context(workers(plan))}


def measure(plan: Plan) -> Round:
    """Do all the work with freshly started processes: first what is due at a time, with as few others as can be."""
    measures: Round = {name: {} for name in SIDES}

    def do(rows: Iterator[dict[str, Work]]) -> None:
        for row in rows:
            for name, found in take_turns(row).items():
                measures[name] |= found

    for start in (pairs, nodes):
        with ExitStack() as stack:
            do(timed_rows(start(stack, plan)))
    with ExitStack() as stack:
        do(rows(nodes(stack, plan) | pairs(stack, plan)))
    return measures


def run(plan: Plan, rounds: int) -> list[Round]:
    """Measure round after round. Progress goes to stderr."""
    results: list[Round] = []
    for number in range(rounds):
        start = time.monotonic()
        results.append(measure(plan))
        print(f"round {number + 1}/{rounds} ({time.monotonic() - start:.0f} s)", file=sys.stderr)
        for name, values in results[-1].items():
            print(f"  {name}: {progress(values)}", file=sys.stderr, flush=True)
    return results


def progress(values: Mapping[str, float]) -> str:
    """Return the figures of one side that show whether a run makes sense."""
    fanout = f"fan-out {values['fanout_cpu_us']:.1f} us, " if "fanout_cpu_us" in values else ""
    return (
        f"send {values['send_cpu_us']:.1f} us, {fanout}"
        f"{values['send_per_second']:.0f} sends/s, p99 {values['paced_p99_ms']:.2f} ms"
    )
