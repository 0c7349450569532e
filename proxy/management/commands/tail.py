"""`manage.py tail`: what goes on in one session, as it happens."""

import asyncio
import contextlib
import shutil
import sys
from argparse import ArgumentTypeError
from collections import Counter
from typing import Any

from django.core.management.base import CommandParser

from proxy import conf, reports, selection, tailing
from proxy.console import ConsoleCommand, in_words
from proxy.report_lines import in_line


class Command(ConsoleCommand):
    help = (
        "Watch a session: its frames, callbacks and ends, as they happen, at whatever node it is; also of one that "
        "connects later. Ctrl-C ends it."
    )
    needs_registry = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("key", metavar="KEY", help="the session's key")
        parser.add_argument("--json", action="store_true", help="one JSON object per line, as the API has them")
        parser.add_argument("--contents", action="store_true", help="what frames say, too (needs EKBO_WATCH_CONTENTS)")
        parser.add_argument("--count", type=_number, metavar="N", help="end after so many lines")
        parser.add_argument("--seconds", type=_number, metavar="S", help="end after so many seconds")

    def handle(self, *args: Any, **options: Any) -> None:
        (key,) = selection.check_keys([options["key"]])
        if not conf.options().clustered:
            self.require_registry()
        seen: Counter[str] = Counter()
        try:
            with asyncio.Runner() as runner:
                runner.run(self._tail(key, options, seen))
        except KeyboardInterrupt:
            self.stderr.write("")
        counts = [f"{seen[what]:,} {what}" for what in (reports.SENT, reports.RECEIVED)]
        counts.append(in_words(seen[reports.CALLBACK], "callback"))
        if seen[reports.MISSED]:
            counts.append(f"{in_words(seen[reports.MISSED], 'report')} missed")
        self.stderr.write(", ".join(counts), self.style.NOTICE)

    async def _tail(self, key: str, options: dict[str, Any], seen: "Counter[str]") -> None:
        left = options["count"]
        with contextlib.suppress(TimeoutError):
            async with (
                asyncio.timeout(options["seconds"]),
                contextlib.aclosing(tailing.tail(key, options["contents"])) as found,
            ):
                async for report in found:
                    seen[report["what"]] += (report.get("count") or 1) if report["what"] == reports.MISSED else 1
                    self._show(report, options["json"])
                    if left and (left := left - 1) == 0:
                        return

    def _show(self, report: reports.Report, as_json: bool) -> None:
        if as_json:
            self.json_lines([report])
        else:
            line = in_line(report)
            self.stdout.write(line[: shutil.get_terminal_size().columns] if sys.stdout.isatty() else line)
        self.stdout.flush()


def _number(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 10 and int(text):
        return int(text)
    raise ArgumentTypeError(f"expected a whole number from 1 on, found {text!r}")
