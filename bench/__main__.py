"""`python -m bench`: measure the proxy beside its yardsticks and peers, print the tables of docs/performance.md.

`python -m bench cluster` measures two processes and one Redis, `python -m bench model` computes a large installation
from that, `python -m bench idle` says what an idle node needs; see their --help. A peer that isn't installed is named
as absent.
"""

import argparse
import json
import sys
from pathlib import Path

from . import chart, cluster_command, comparison, idle_command, model_command, options, report
from .processes import BenchError
from .run import Failures, run
from .systems import SYSTEMS
from .work import COMPARISON, KINDS

COMMANDS = {"cluster": cluster_command.main, "idle": idle_command.main, "model": model_command.main}
RESULT = options.PERFORMANCE_PAGE.with_suffix(".json")
PICTURE = options.PERFORMANCE_PAGE.with_suffix(".svg")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line of the command without a name."""
    parser = options.plan_parser("python -m bench", __doc__, COMPARISON)
    add, default = parser.add_argument, COMPARISON
    add("--systems", default=",".join(SYSTEMS), help="comma-separated, of: %(default)s")
    add("--work", default=",".join(KINDS), help="comma-separated, of: %(default)s; connections are always opened")
    add("--large", type=int, default=default.large, help="bytes of the other message; 0: none (%(default)s)")
    add("--rate", type=int, default=default.rate, help="sends per second of the open loop (%(default)s)")
    add("--batch", type=int, default=default.batch, help="messages in a batch (%(default)s)")
    add("--memory-connections", type=int, default=default.memory_connections, help="idle ones (%(default)s)")
    add("--svg", type=Path, metavar="FILE", help="draw the picture there")
    found = options.read(parser, arguments)
    found.systems = options.names(parser, "--systems", found.systems, list(SYSTEMS))
    found.work = options.names(parser, "--work", found.work, KINDS)
    return found


def measure(arguments: list[str]) -> int:
    """Measure, print the tables, and return the exit status."""
    found = parse(arguments)
    systems, absent = comparison.split([SYSTEMS[name] for name in found.systems])

    def work() -> None:
        for name, reason in absent.items():
            print(f"absent: {name}: {reason}", file=sys.stderr)
        if not systems:
            raise BenchError("expected at least one system that can run here but found none")
        plan = options.plan(found, COMPARISON)
        failures: Failures = {}
        rounds = run(systems, plan, found.rounds, failures)
        for name, reasons in failures.items():
            print(f"failed: {name}: {reasons[0]}", file=sys.stderr)
        summary = comparison.summarise(systems, absent, failures, plan, rounds)
        command = " ".join(["python -m bench", *options.shown(arguments)])
        text = comparison.markdown(summary, command)
        print(text, end="")
        if found.json:
            found.json.write_text(json.dumps(summary, indent=1) + "\n")
        if found.svg:
            found.svg.write_text(chart.svg(summary))
        if found.write:
            page = comparison.markdown(summary, command, PICTURE.name)
            report.write_between_markers(options.PERFORMANCE_PAGE, page, comparison.BEGIN, comparison.END)
            RESULT.write_text(json.dumps({**summary, "rounds": []}, indent=1) + "\n")
            PICTURE.write_text(chart.svg(summary))

    return options.status_of(work)


def main() -> int:
    """Carry out the command that is named first; without a name, measure."""
    name, *arguments = sys.argv[1:] or [""]
    return COMMANDS[name](arguments) if name in COMMANDS else measure(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
