"""`python -m bench idle`: CPU and memory of a node whose connections do nothing, with the registry on and off.

What the registry's heartbeat and samples cost is the difference; each connection's own pings are in both. Memory
of a connection is taken before that time and after it: it must not have grown. Both nodes stand side by side, so that
what ails the machine ails both. `make idle` is the long form.
"""

import argparse
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass

from . import options
from .report import table
from .run import started
from .systems import SYSTEMS
from .work import Plan, Stage

NAMES = ("ours-uvicorn", "ours-registry")
GOAL = 1.0  # percent of one core, at 1,000 connections
OWN = "Pss_Anon"  # a file's pages count less for each other process that maps them, and those come and go in an hour
LINES = 12  # of progress
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


@dataclass
class Node:
    """One that is looked at."""

    stage: Stage
    connections: int

    def __post_init__(self) -> None:
        self.empty = self.stage.memory(OWN)
        self.stage.open(self.connections)

    def begin(self) -> None:
        """What is seen from now on counts."""
        self.began, self.cpu, self.at_first = time.monotonic(), self.stage.cpu(), self.memory()

    def look(self) -> Idle:
        """What was seen so far."""
        share = 100 * (self.stage.cpu() - self.cpu) / (time.monotonic() - self.began)
        return Idle(share, self.at_first, self.memory())

    def memory(self) -> float:
        """KiB of each connection."""
        return (self.stage.memory(OWN) - self.empty) / self.connections


def observe(connections: int, settle: float, seconds: float) -> list[Idle]:
    """Start the nodes, let their connections settle, and look for so long; progress goes to stderr."""
    with ExitStack() as stack:
        plan = Plan(connections=connections)
        nodes = [Node(stack.enter_context(started(SYSTEMS[name], plan)), connections) for name in NAMES]
        time.sleep(settle)
        for node in nodes:
            node.begin()
        for step in range(1, LINES + 1):
            time.sleep(seconds / LINES)
            found = [node.look() for node in nodes]
            off, on = (f"{each.cpu:.2f} %, {each.later:.2f} KiB a connection" for each in found)
            print(f"{seconds * step / LINES:8.0f} s: registry off {off}; on {on}", file=sys.stderr, flush=True)
    return found


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
        off, on = observe(found.connections, found.settle, found.seconds)
        cost = max(0.0, on.cpu - off.cpu)
        rows = [["registry off", f"{off.cpu:.2f} %"], ["registry on", f"{on.cpu:.2f} %"]]
        rows.append(["heartbeat and samples", f"{cost:.2f} % (goal: at most {GOAL:g} %, {verdict(cost <= GOAL)})"])
        print("\n".join(table([f"CPU of a node with {found.connections:,} idle connections", "of one core"], rows)))
        head = ["memory of a connection", "at first", f"after {found.seconds:g} s", f"goal: at most +{GROWTH:g} %"]
        rows = [memory_row("registry off", off), memory_row("registry on", on)]
        print("\n".join(["", *table(head, rows)]))
        print(f"{found.seconds:g} s, after {found.settle:g} s of rest", file=sys.stderr)

    return options.status_of(work)
