"""`python -m bench`: measure the proxy beside its yardsticks and print the table of docs/performance.md."""

import argparse
import contextlib
import json
import resource
import signal
import sys
from pathlib import Path
from typing import NoReturn

from . import report
from .processes import BenchError
from .run import run
from .sockets import MIN_SIZE
from .systems import PROJECT, SYSTEMS
from .work import Plan

PERFORMANCE_PAGE = PROJECT / "docs" / "performance.md"
QUICK = {"rounds": 2, "seconds": 1.0}


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    default = Plan()
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    add = parser.add_argument
    add("--systems", default=",".join(SYSTEMS), help="comma-separated, of: %(default)s")
    add("--rounds", type=int, default=5, help="rounds that alternate between the systems (%(default)s)")
    add("--connections", type=int, default=default.connections, help="open WebSockets (%(default)s)")
    add("--senders", type=int, default=default.senders, help="keep-alive senders (%(default)s)")
    add("--size", type=int, default=default.size, help=f"bytes of a message, at least {MIN_SIZE} (%(default)s)")
    add("--keys", type=int, default=default.keys, help="sessions per request of the fan-out (%(default)s)")
    add("--seconds", type=float, default=default.seconds, help="length of a send phase (%(default)s)")
    add("--settle", type=float, default=default.settle, help="pause after each kind of work (%(default)s)")
    add("--quick", action="store_true", help="two rounds with send phases of 1 s: about a minute")
    add("--json", type=Path, metavar="FILE", help="write everything that was found there")
    add("--write", action="store_true", help=f"put the tables into {PERFORMANCE_PAGE.relative_to(PROJECT)}")
    options = parser.parse_args(arguments)
    options.systems = options.systems.split(",")
    for name in options.systems:
        if name not in SYSTEMS:
            parser.error(f"--systems: expected some of {', '.join(SYSTEMS)} but got {name!r}")
    if options.size < MIN_SIZE:
        parser.error(f"--size: expected at least {MIN_SIZE} but got {options.size}")
    for name in ("rounds", "connections", "senders", "keys"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: expected at least 1 but got {getattr(options, name)}")
    if options.quick:
        vars(options).update(QUICK)
    return options


def on_terminate(signal_number: int, frame: object) -> NoReturn:
    """Leave by the same way as on Ctrl-C, which ends all that we have started."""
    raise KeyboardInterrupt


def main() -> int:
    """Measure, print the tables, and return the exit status."""
    arguments = sys.argv[1:]
    options = parse(arguments)
    signal.signal(signal.SIGTERM, on_terminate)
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # the servers inherit it
    systems = [SYSTEMS[name] for name in options.systems]
    plan = Plan(
        connections=options.connections,
        senders=options.senders,
        size=options.size,
        keys=options.keys,
        seconds=options.seconds,
        settle=options.settle,
    )
    try:
        rounds = run(systems, plan, options.rounds)
        summary = report.summarise(systems, plan, rounds)
        text = report.markdown(summary, " ".join(["python -m bench", *shown(arguments)]))
        print(text, end="")
        if options.json:
            options.json.write_text(json.dumps(summary, indent=1) + "\n")
        if options.write:
            report.write_between_markers(PERFORMANCE_PAGE, text)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    return 0


def shown(arguments: list[str]) -> list[str]:
    """Return the arguments less those that don't change the measurement."""
    kept = list(arguments)
    with contextlib.suppress(ValueError):
        kept.remove("--write")
    if "--json" in kept:
        at = kept.index("--json")
        del kept[at : at + 2]
    return kept


if __name__ == "__main__":
    sys.exit(main())
