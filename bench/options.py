"""The command line: what the commands of the bench have in common."""

import argparse
import contextlib
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import NoReturn

from .processes import PROJECT, BenchError
from .talk import MIN_SAID
from .work import Plan

PERFORMANCE_PAGE = PROJECT / "docs" / "performance.md"
QUICK = {"rounds": 1, "seconds": 0.6, "memory_connections": 2000}
WHOLE_NUMBERS = ["rounds", "connections", "senders", "keys", "rate", "busy_rate", "workers", "crowd", "many_senders"]
WHOLE_NUMBERS += ["batch", "memory_connections"]


def plan_parser(program: str, description: str | None, default: Plan) -> argparse.ArgumentParser:
    """Return a parser for how much work is done and where the results go."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="rounds that alternate between the systems (%(default)s)")
    add("--connections", type=int, default=default.connections, help="open WebSockets (%(default)s)")
    add("--senders", type=int, default=default.senders, help="keep-alive senders (%(default)s)")
    add("--size", type=int, default=default.size, help=f"bytes of a message, at least {MIN_SAID} (%(default)s)")
    add("--keys", type=int, default=default.keys, help="sessions per request of the fan-out (%(default)s)")
    add("--seconds", type=float, default=default.seconds, help="length of a send phase (%(default)s)")
    add("--warm-up", type=float, default=default.warm_up, help="sends before each send phase (%(default)s)")
    add("--settle", type=float, default=default.settle, help="pause after each kind of work (%(default)s)")
    add("--quick", action="store_true", help="one round, short phases, 2,000 idle connections: a minute or two")
    add("--json", type=Path, metavar="FILE", help="write everything that was found there")
    add("--write", action="store_true", help="put the tables into docs/")
    return parser


def read(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """Read the arguments; end the program if they make no sense."""
    options = parser.parse_args(arguments)
    if options.size < MIN_SAID:
        parser.error(f"--size: expected at least {MIN_SAID} but got {options.size}")
    if 0 < getattr(options, "large", 0) < MIN_SAID:
        parser.error(f"--large: expected 0 or at least {MIN_SAID} but got {options.large}")
    for name in WHOLE_NUMBERS:
        if getattr(options, name, 1) < 1:
            parser.error(f"--{name.replace('_', '-')}: expected at least 1 but got {getattr(options, name)}")
    if options.quick:
        vars(options).update(QUICK)
    return options


def names(parser: argparse.ArgumentParser, option: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    """Read a comma-separated list of known names; end the program if one is unknown."""
    found = tuple(text.split(","))
    for name in found:
        if name not in known:
            parser.error(f"{option}: expected some of {', '.join(known)} but got {name!r}")
    return found


def plan(options: argparse.Namespace, default: Plan) -> Plan:
    """Return the plan that the options ask for."""
    return replace(
        default, **{field.name: getattr(options, field.name) for field in fields(Plan) if field.name in options}
    )


def shown(arguments: list[str]) -> list[str]:
    """Return the arguments less those that don't change the measurement."""
    kept = list(arguments)
    with contextlib.suppress(ValueError):
        kept.remove("--write")
    for option in ("--json", "--svg"):
        if option in kept:
            at = kept.index(option)
            del kept[at : at + 2]
    return kept


def on_terminate(signal_number: int, frame: object) -> NoReturn:
    """Leave by the same way as on Ctrl-C, which ends all that we have started."""
    raise KeyboardInterrupt


def status_of(work: Callable[[], None]) -> int:
    """Do the work with as many open files as we may have; return the program's exit status."""
    signal.signal(signal.SIGTERM, on_terminate)
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # the servers inherit it
    try:
        work()
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    return 0
