"""The measurement: rounds in which all servers stand side by side and take turns at every piece of work."""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from .processes import Process, free_port
from .systems import System, clean_environment
from .work import Plan, Stage, works

Round = dict[str, dict[str, float]]  # system name -> measure -> value


@contextmanager
def started(system: System, plan: Plan) -> Iterator[Stage]:
    """Start a system with its backend and load process; end them all at the end, whatever happens."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))

        def start(command: list[str], environment: dict[str, str], *, pipes: bool) -> Process:
            process = Process(command, environment, pipes=pipes)
            stack.callback(process.stop)
            return process

        plain = clean_environment()
        backend = start([sys.executable, "-m", "bench.backend"], plain, pipes=True)
        backend_url = f"http://127.0.0.1:{int(backend.read_line(10))}/connect"
        port = free_port()
        environment = plain | system.environment(port, backend_url, folder)
        server = start(system.command(port), environment, pipes=False)
        server.wait_ready(port, system.ping_path)
        load = start([sys.executable, "-m", "bench.load", system.name, str(port)], plain, pipes=True)
        yield Stage(plan, server, load)
        load.ask(30, do="close")


def measure(systems: list[System], plan: Plan) -> Round:
    """Do all the work with freshly started systems, in slices that go forward and backward through the systems."""
    with ExitStack() as stack:
        stages = [stack.enter_context(started(system, plan)) for system in systems]
        measures: Round = {system.name: {} for system in systems}
        for row in zip(*[works(stage) for stage in stages], strict=True):  # one kind of work, for every system
            for work in row:
                work.begin()
            for number in range(row[0].slices()):
                for work in row if number % 2 == 0 else row[::-1]:
                    work.slice(number)
            time.sleep(plan.settle)
            for system, work in zip(systems, row, strict=True):
                measures[system.name] |= work.end()
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
