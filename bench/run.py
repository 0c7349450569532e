"""The measurement: rounds in which all servers stand side by side and take turns at every piece of work."""

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .processes import Process, free_port
from .systems import System, clean_environment
from .work import Plan, Stage, Work, works

Measures = dict[str, float]  # measure -> value
Round = dict[str, Measures]  # by the name of the system


def launch(
    stack: ExitStack, command: Sequence[str], environment: Mapping[str, str] | None = None, *, pipes: bool = False
) -> Process:
    """Start a process that the stack ends, with variables beside those that are not the proxy's."""
    process = Process(command, clean_environment() | dict(environment or {}), pipes=pipes)
    stack.callback(process.stop)
    return process


def launch_backend(stack: ExitStack) -> str:
    """Start a backend and return the URL of its connect callback."""
    backend = launch(stack, [sys.executable, "-m", "bench.backend"], pipes=True)
    return f"http://127.0.0.1:{int(backend.read_line(10))}/connect"


def launch_load(stack: ExitStack, system: str, port: int) -> Process:
    """Start a load process for a server's port."""
    return launch(stack, [sys.executable, "-m", "bench.load", system, str(port)], pipes=True)


@contextmanager
def started(system: System, plan: Plan) -> Iterator[Stage]:
    """Start a system with its backend and load process; end them all at the end, whatever happens."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        backend_url = launch_backend(stack)
        port = free_port()
        server = launch(stack, system.command(port), system.environment(port, backend_url, folder))
        server.wait_ready(port, system.ping_path)
        load = launch_load(stack, system.name, port)
        yield Stage(plan, server, load)
        load.ask(30, do="close")


def take_turns(works: Mapping[str, Work]) -> Round:
    """Do one kind of work for every system, in slices that go forward and backward through them."""
    row = list(works.values())
    for work in row:
        work.begin()
    for number in range(row[0].slices()):
        for work in row if number % 2 == 0 else row[::-1]:
            work.slice(number)
    time.sleep(row[0].pause())
    return {name: work.end() for name, work in works.items()}


def measure(systems: list[System], plan: Plan) -> Round:
    """Do all the work with freshly started systems."""
    with ExitStack() as stack:
        stages = {system.name: stack.enter_context(started(system, plan)) for system in systems}
        measures: Round = {name: {} for name in stages}
        for row in zip(*[works(stage) for stage in stages.values()], strict=True):
            for name, found in take_turns(dict(zip(stages, row, strict=True))).items():
                measures[name] |= found
        return measures


def run(systems: list[System], plan: Plan, rounds: int) -> list[Round]:
    """Measure all systems in every round; every other round starts with the last. Progress goes to stderr."""
    results: list[Round] = []
    for number in range(rounds):
        start = time.monotonic()
        results.append(measure(systems if number % 2 == 0 else systems[::-1], plan))
        print(f"round {number + 1}/{rounds} ({time.monotonic() - start:.0f} s)", file=sys.stderr)
        for system in systems:
            values = results[-1][system.name]
            print(
                f"  {system.name}: send {values['send_cpu_us']:.1f} us, fan-out {values['fanout_cpu_us']:.1f} us,"
                f" connect {values['connect_cpu_us']:.0f} us, memory {values['memory_kib']:.1f} KiB",
                file=sys.stderr,
                flush=True,
            )
    return results
