"""The measurement: rounds in which all servers stand side by side and take turns at every piece of work."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from .ground import ground
from .processes import BenchError
from .system import System
from .work import Memory, Plan, Stage, WarmUp, Work, rows

Measures = dict[str, float]  # measure -> value
Round = dict[str, Measures]  # by the name of the system
Failures = dict[str, list[str]]  # by the name of the system: what it could not do, and why

PROGRESS = {
    "send_cpu_us": "send {:.1f} us",
    "fanout_cpu_us": "fan-out {:.1f} us",
    "connect_cpu_us": "connect {:.0f} us",
    "receive_cpu_us": "receive {:.0f} us",
    "idle_memory_kib": "memory {:.1f} KiB",
    "paced_p99_ms": "p99 {:.2f} ms",
}


@contextmanager
def started(system: System, plan: Plan) -> Iterator[Stage]:
    """Start a system with its backend and load process; end them all at the end, whatever happens."""
    with ground() as on:
        servers = system.start(on)
        load = on.load(system.name, servers.port)
        yield Stage(plan, servers, load, servers.send_port, on.backend_port, system.lacks)


def take_turns(works: Mapping[str, Work], failures: Failures | None = None) -> Round:
    """Do one kind of work for every system, in slices that go forward and backward through them.

    Where `failures` are given, a system that fails is noted there and left out; else its BenchError is raised.
    """
    row = dict(works)

    def attempt(name: str, step: Callable[[], None]) -> None:
        try:
            step()
        except BenchError as error:
            if failures is None:
                raise
            del row[name]
            failures.setdefault(name, []).append(f"{works[name].name}: {error}")

    for name, work in works.items():
        attempt(name, work.begin)
    for number in range(next(iter(works.values())).slices() if works else 0):
        for name in list(row) if number % 2 == 0 else list(row)[::-1]:
            attempt(name, partial(row[name].slice, number))
    if row:
        time.sleep(next(iter(row.values())).pause())
    return {name: work.end() for name, work in row.items()}


def measure(systems: Sequence[System], plan: Plan, failures: Failures | None = None) -> Round:
    """Do all the work with freshly started systems: side by side, then each alone with many idle connections."""
    measures: Round = {system.name: {} for system in systems}
    with ExitStack() as stack:
        stages = {system.name: stack.enter_context(started(system, plan)) for system in systems}
        for row in rows(stages, plan):
            for name, found in take_turns(row, failures).items():
                measures[name] |= found
        for stage in stages.values():
            stage.load.ask(30, do="close")
    for system in systems if "memory" in plan.work else ():
        with started(system, plan) as stage:
            WarmUp(stage).begin()
            measures[system.name] |= take_turns({system.name: Memory(stage)}, failures).get(system.name, {})
    return measures


def run(systems: Sequence[System], plan: Plan, rounds: int, failures: Failures | None = None) -> list[Round]:
    """Measure all systems in every round; every other round starts with the last. Progress goes to stderr."""
    results: list[Round] = []
    for number in range(rounds):
        start = time.monotonic()
        results.append(measure(systems if number % 2 == 0 else systems[::-1], plan, failures))
        print(f"round {number + 1}/{rounds} ({time.monotonic() - start:.0f} s)", file=sys.stderr)
        for system in systems:
            values = results[-1][system.name]
            found = [text.format(values[measure]) for measure, text in PROGRESS.items() if measure in values]
            print(f"  {system.name}: {', '.join(found)}", file=sys.stderr, flush=True)
    return results
