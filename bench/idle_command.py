"""`python -m bench idle`: CPU and memory of a node whose connections do nothing, with the registry on and off.

What the registry's heartbeat and samples cost is the difference; each connection's own pings are in both. Memory
of a connection is taken before that time and after it: it must not have grown. `make idle` is the long form.
"""

import argparse
import sys
import time
from dataclasses import dataclass

from . import options
from .report import table
from .run import started
from .systems import SYSTEMS
from .work import Plan

NAMES = ("ours-uvicorn", "ours-registry")
GOAL = 1.0  # percent of one core, at 1,000 connections
OWN = "Pss_Anon"  # a file's pages count less for each other process that maps them, and those come and go in an hour
GROWTH = 1.0  # percent of the memory of a connection (docs/faults.md)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench idle", description=__doc__)
    add = parser.add_argument
    add("--connections", type=int, default=1000, help="open WebSockets (%(default)s)")
    add("--seconds", type=float, default=30.0, help="how long to look (%(default)g)")
    add("--settle", type=float, default=3.0, help="pause before that (%(default)g)")
    return parser.parse_args(arguments)


@dataclass(frozen=True)
class Idle:
    """What was seen of a system: percent of one core; KiB of memory for each connection, at first and later."""

    cpu: float
    at_first: float
    later: float

    @property
    def growth(self) -> float:
        """Percent."""
        return 100 * (self.later - self.at_first) / (self.at_first or 1)


def observe(name: str, connections: int, settle: float, seconds: float) -> Idle:
    """Open the connections, let them settle, and look for so long."""
    with started(SYSTEMS[name], Plan(connections=connections)) as stage:
        empty = stage.memory(OWN)
        stage.open(connections)
        time.sleep(settle)
        began, cpu, at_first = time.monotonic(), stage.cpu(), stage.memory(OWN)
        time.sleep(seconds)
        share = 100 * (stage.cpu() - cpu) / (time.monotonic() - began)
        return Idle(share, (at_first - empty) / connections, (stage.memory(OWN) - empty) / connections)


def verdict(met: bool) -> str:
    """In words."""
    return "met" if met else "**not met**"


def memory_row(name: str, idle: Idle) -> list[str]:
    """A row of the table of memory."""
    growth = f"{idle.growth:+.2f} %, {verdict(idle.growth <= GROWTH)}"
    return [name, f"{idle.at_first:.2f} KiB", f"{idle.later:.2f} KiB", growth]


def main(arguments: list[str]) -> int:
    """Measure, print the table, and return the exit status."""
    found = parse(arguments)

    def work() -> None:
        off, on = (observe(name, found.connections, found.settle, found.seconds) for name in NAMES)
        cost = max(0.0, on.cpu - off.cpu)
        rows = [["registry off", f"{off.cpu:.2f} %"], ["registry on", f"{on.cpu:.2f} %"]]
        rows.append(["heartbeat and samples", f"{cost:.2f} % (goal: at most {GOAL:g} %, {verdict(cost <= GOAL)})"])
        print("\n".join(table([f"CPU of a node with {found.connections:,} idle connections", "of one core"], rows)))
        head = ["memory of a connection", "at first", f"after {found.seconds:g} s", f"goal: at most +{GROWTH:g} %"]
        rows = [memory_row("registry off", off), memory_row("registry on", on)]
        print("\n".join(["", *table(head, rows)]))
        print(f"{found.seconds:g} s each, after {found.settle:g} s of rest", file=sys.stderr)

    return options.status_of(work)
