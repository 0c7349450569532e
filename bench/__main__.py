"""`python -m bench`: measure the proxy beside its yardsticks and print the tables of docs/performance.md.

`python -m bench cluster` measures two processes and one Redis, `python -m bench model` computes a large installation
from that, `python -m bench idle` says what an idle node needs; see their --help.
"""

import argparse
import json
import sys

from . import cluster_command, idle_command, model_command, options, report
from .run import run
from .systems import SYSTEMS

COMMANDS = {"cluster": cluster_command.main, "idle": idle_command.main, "model": model_command.main}


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line of the command without a name."""
    parser = options.plan_parser("python -m bench", __doc__)
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="comma-separated, of: %(default)s")
    found = options.read(parser, arguments)
    found.systems = found.systems.split(",")
    for name in found.systems:
        if name not in SYSTEMS:
            parser.error(f"--systems: expected some of {', '.join(SYSTEMS)} but got {name!r}")
    return found


def measure(arguments: list[str]) -> int:
    """Measure, print the tables, and return the exit status."""
    found = parse(arguments)
    systems = [SYSTEMS[name] for name in found.systems]

    def work() -> None:
        plan = options.plan(found)
        summary = report.summarise(systems, plan, run(systems, plan, found.rounds))
        text = report.markdown(summary, " ".join(["python -m bench", *options.shown(arguments)]))
        print(text, end="")
        if found.json:
            found.json.write_text(json.dumps(summary, indent=1) + "\n")
        if found.write:
            report.write_between_markers(options.PERFORMANCE_PAGE, text)

    return options.status_of(work)


def main() -> int:
    """Carry out the command that is named first; without a name, measure."""
    name, *arguments = sys.argv[1:] or [""]
    return COMMANDS[name](arguments) if name in COMMANDS else measure(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
