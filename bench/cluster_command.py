"""`python -m bench cluster`: measure two processes and one Redis beside one process, and two workers beside one.

`--write` puts the tables into docs/performance.md, what they and the model are made of into docs/cluster.json, and what
`python -m bench model` makes of that into docs/scaling.md.
"""

import argparse
import json

from . import cluster_report, model_command, options, report
from .cluster import run
from .model import Target
from .work import Plan


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    default = Plan()
    parser = options.plan_parser("python -m bench cluster", __doc__, default)
    add = parser.add_argument
    add("--rate", type=int, default=default.rate, help="sends per second of the open loop (%(default)s)")
    add("--busy-rate", type=int, default=default.busy_rate, help="the same, for a process in full use (%(default)s)")
    add("--workers", type=int, default=default.workers, help="workers of the last side (%(default)s)")
    add("--many-senders", type=int, default=default.many_senders, help="to keep all workers busy (%(default)s)")
    add("--crowd", type=int, default=default.crowd, help="bare clients of Redis, at least 2 (%(default)s)")
    add("--idle", type=float, default=default.idle, help="seconds without work; %(default)g s ping every client once")
    return options.read(parser, arguments)


def main(arguments: list[str]) -> int:
    """Measure, print the tables, and return the exit status."""
    found = parse(arguments)

    def work() -> None:
        plan = options.plan(found, Plan())
        summary = cluster_report.summarise(plan, run(plan, found.rounds))
        text = cluster_report.markdown(summary, " ".join(["python -m bench cluster", *options.shown(arguments)]))
        print(text, end="")
        if found.json:
            found.json.write_text(json.dumps(summary, indent=1) + "\n")
        if found.write:
            report.write_between_markers(options.PERFORMANCE_PAGE, text, cluster_report.BEGIN, cluster_report.END)
            model_command.RESULT.write_text(json.dumps({**summary, "rounds": []}, indent=1) + "\n")
            model_command.write(summary, Target())

    return options.status_of(work)
