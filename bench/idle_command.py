"""`python -m bench idle`: the CPU share of a node whose connections do nothing, with the registry on and off.

What the registry's heartbeat and samples cost is the difference; each connection's own pings are in both.
"""

import argparse
import sys
import time

from . import options
from .report import table
from .run import started
from .systems import SYSTEMS
from .work import Plan

NAMES = ("ours-uvicorn", "ours-registry")
GOAL = 1.0  # percent of one core, at 1,000 connections


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench idle", description=__doc__)
    add = parser.add_argument
    add("--connections", type=int, default=1000, help="open WebSockets (%(default)s)")
    add("--seconds", type=float, default=30.0, help="how long to look (%(default)g)")
    add("--settle", type=float, default=3.0, help="pause before that (%(default)g)")
    return parser.parse_args(arguments)


def share(name: str, connections: int, settle: float, seconds: float) -> float:
    """Return the percentage of one core that a system needs for idle connections."""
    with started(SYSTEMS[name], Plan(connections=connections)) as stage:
        stage.open(connections)
        time.sleep(settle)
        began, cpu = time.monotonic(), stage.cpu()
        time.sleep(seconds)
        return 100 * (stage.cpu() - cpu) / (time.monotonic() - began)


def main(arguments: list[str]) -> int:
    """Measure, print the table, and return the exit status."""
    found = parse(arguments)

    def work() -> None:
        off, on = (share(name, found.connections, found.settle, found.seconds) for name in NAMES)
        rows = [["registry off", f"{off:.2f} %"], ["registry on", f"{on:.2f} %"]]
        cost = max(0.0, on - off)
        verdict = "met" if cost <= GOAL else "**not met**"
        rows.append(["heartbeat and samples", f"{cost:.2f} % (goal: at most {GOAL:g} %, {verdict})"])
        print("\n".join(table([f"CPU of a node with {found.connections:,} idle connections", "of one core"], rows)))
        print(f"{found.seconds:g} s each, after {found.settle:g} s of rest", file=sys.stderr)

    return options.status_of(work)
