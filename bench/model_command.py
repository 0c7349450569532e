"""`python -m bench model`: compute a large installation from what `bench cluster` found, by default docs/cluster.json.

`--write` puts the tables into docs/scaling.md.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from . import model_page, options, report
from .model import Target
from .processes import PROJECT

RESULT = PROJECT / "docs" / "cluster.json"
PAGE = PROJECT / "docs" / "scaling.md"


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    default = Target()
    parser = argparse.ArgumentParser(prog="python -m bench model", description=__doc__)
    add = parser.add_argument
    add("result", type=Path, nargs="?", default=RESULT, help="JSON of `bench cluster` (docs/cluster.json)")
    add("--connections", type=int, default=default.connections, help="open WebSockets (%(default)s)")
    add("--sends", type=float, default=default.sends, help="sends per second, one session each (%(default)s)")
    add("--lifetime", type=float, default=default.lifetime, help="seconds that a connection lasts (%(default)s)")
    add("--cores", type=int, default=default.cores_per_node, help="cores of a node (%(default)s)")
    add("--write", action="store_true", help=f"put the tables into {PAGE.relative_to(PROJECT)}")
    found = parser.parse_args(arguments)
    for name in ("connections", "sends", "lifetime", "cores"):
        if getattr(found, name) <= 0:
            parser.error(f"--{name}: expected more than 0 but got {getattr(found, name)}")
    return found


def main(arguments: list[str]) -> int:
    """Compute, print the tables, and return the exit status."""
    found = parse(arguments)
    target = Target(
        connections=found.connections, sends=found.sends, lifetime=found.lifetime, cores_per_node=found.cores
    )

    def work() -> None:
        summary = json.loads(found.result.read_text())
        print(model_page.markdown(summary, target), end="")
        if found.write:
            write(summary, target)

    return options.status_of(work)


def write(summary: dict[str, Any], target: Target) -> None:
    """Put the tables into the page."""
    report.write_between_markers(PAGE, model_page.markdown(summary, target), model_page.BEGIN, model_page.END)
