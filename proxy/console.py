"""What the management commands have in common: configuration and errors, tables, progress, questions, exit status."""

import json
import os
import re
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import chain, islice
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error, ProgrammingError
from django.utils.timezone import now

from proxy import conf
from proxy.diagnosis import TEST
from proxy.printable import shown
from proxy.remote import Order, reach

MAX_FAILED_STATUS = 100  # an exit status over 125 would mean something else to shells
INTERRUPTED = 130  # as shells say it of SIGINT
SAMPLE = 500  # rows that a table's columns are measured by
MAX_WIDTH = 40  # characters of a column; longer values are shown in full, and move the rest of their line
BAR = 30  # characters of a progress bar


class ConsoleCommand(BaseCommand):
    """A command for operators. It needs less than the proxy does: no callback URLs, no system checks."""

    requires_system_checks = ()
    needs_registry = True
    needs_options = True
    """Whether it can do nothing while there are problems in the configuration."""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        # So that options may stand between keys.
        parser.parse_args = parser.parse_intermixed_args  # type: ignore[method-assign]
        return parser

    def execute(self, *args: Any, **options: Any) -> Any:
        for name in settings.KUIPERBELT_UNKNOWN_VARIABLES:
            self.stderr.write(conf.unread(name))
        # Only the proxy itself can do nothing without the callback.
        problems = [problem for problem in settings.KUIPERBELT_PROBLEMS if problem.where != conf.NO_CALLBACK]
        if problems and self.needs_options:
            raise CommandError(conf.report(problems))
        if self.needs_registry:
            self.require_registry()
        try:
            return super().execute(*args, **options)
        except Error as error:
            raise CommandError(_explained(error)) from error
        except BrokenPipeError:  # `| head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except KeyboardInterrupt:
            self.stderr.write("interrupted")
            sys.exit(INTERRUPTED)

    def require_registry(self) -> None:
        if not conf.options().registry:
            raise CommandError("expected the registry of sessions, found it switched off (EKBO_REGISTRY)")

    def confirm(self, question: str, assumed: bool) -> None:
        """Go on only if the user says yes, or has said so before (`--no-input`)."""
        if assumed:
            return
        if not sys.stdin.isatty():
            raise CommandError(f"{question} Expected somebody at a terminal to ask, found none; --no-input doesn't ask")
        if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
            raise CommandError("nothing was done")

    def table(self, titles: Sequence[str], rows: Iterable[Sequence[str]]) -> int:
        """Print rows as they come; the number of them."""
        rows = iter(rows)
        sample = [[shown(cell) for cell in row] for row in islice(rows, SAMPLE)]
        widths = [min(MAX_WIDTH, max(map(len, column))) for column in zip(titles, *sample, strict=True)]
        count = -1  # the titles are none
        for row in chain([titles], sample, rows):
            cells = [shown(cell).ljust(width) for cell, width in zip(row, widths, strict=True)]
            self.stdout.write("  ".join(cells).rstrip())
            count += 1
        return count

    def json_lines(self, records: Iterable[dict[str, Any]]) -> None:
        """Print one JSON object per line."""
        for record in records:
            self.stdout.write(json.dumps(record, default=_plain))

    @contextmanager
    def progress(self, total: int) -> Iterator[Callable[[int], None]]:
        """A bar, to be called with how much is done; only on a terminal."""
        if not sys.stderr.isatty():
            yield lambda done: None
            return

        def show(done: int) -> None:
            filled = min(BAR, BAR * done // max(total, 1))
            self.stderr.write(f"\r[{'#' * filled:.<{BAR}}] {done:,} of {total:,}", self.style.NOTICE, ending="")
            self.stderr.flush()

        try:
            show(0)
            yield show
        finally:
            self.stderr.write("\r\x1b[K", ending="")

    def push(
        self, order: Order, parts: Iterable[Sequence[str]], total: int, done: str, ignored: Sequence[str] = ()
    ) -> None:
        """Carry an order out for all keys, and end with how many failed; errors in `ignored` aren't failures."""
        seen = failed = missed = 0
        with reach() as push, self.progress(total) as show:
            for keys in parts:
                failures = push(order, keys)
                seen += len(keys)
                missed += len(failures)
                for key, why in failures.items():
                    if why not in ignored:
                        failed += 1
                        self.stderr.write(f"{shown(key)}: {shown(why)}")
                show(seen)
        self.stdout.write(f"{done} {seen - missed:,} of {in_words(seen, 'session')}")
        self.finish(failed)

    def finish(self, failed: int) -> None:
        """End with an exit status that tells how many failed."""
        if failed:
            sys.exit(min(failed, MAX_FAILED_STATUS))


def add_client(parser: CommandParser) -> None:
    """Options that say which client a command pretends to be."""
    parser.add_argument(
        "--query", default=f"{TEST}=1", type=_query, help=f"the client's query string; default {TEST}=1"
    )
    parser.add_argument(
        "--header", action="append", default=[], type=_header, metavar="NAME:VALUE", help="a header of the client's"
    )


def _query(text: str) -> str:
    if not re.fullmatch('[!"$-~]*', text):
        raise ArgumentTypeError(f"expected what stands after ? in a URL, percent-encoded, found {text!a}")
    return text


def _header(text: str) -> tuple[bytes, bytes]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or not (text.isascii() and text.isprintable()):
        raise ArgumentTypeError(f"expected NAME:VALUE in visible ASCII, found {text!a}")
    return os.fsencode(name.strip().lower()), os.fsencode(value.strip())


def ago(moment: datetime | None) -> str:
    """How long ago that was, in two units."""
    if moment is None:
        return "-"
    seconds = max(0, (now() - moment) // timedelta(seconds=1))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days}d{hours % 24:02}h"
    if hours:
        return f"{hours}h{minutes % 60:02}m"
    return f"{minutes}m{seconds % 60:02}s" if minutes else f"{seconds}s"


def in_words(count: int, thing: str) -> str:
    """`1 session`, `2,000 sessions`."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def _plain(value: Any) -> str:
    return (
        value.isoformat(timespec="milliseconds").replace("+00:00", "Z") if isinstance(value, datetime) else str(value)
    )


def _explained(error: Error) -> str:
    text = " ".join(str(error).partition("\nLINE ")[0].split())  # PostgreSQL goes on with the query
    if "no such table" in text or ("does not exist" in text and isinstance(error, ProgrammingError)):
        return (
            f"expected the proxy's tables in the database (EKBO_DATABASE_URL), found: {text}; "
            "has this terminal the proxy's options? `manage.py migrate` makes them"
        )
    return f"expected an answer from the database (EKBO_DATABASE_URL), found: {text}"
