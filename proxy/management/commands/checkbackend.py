"""`manage.py checkbackend`: call each configured callback as the proxy would, and say in plain words what is wrong."""

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from proxy import callbacks, conf
from proxy.console import ConsoleCommand, add_client
from proxy.diagnosis import TEST, calls
from proxy.printable import shown


class Command(ConsoleCommand):
    help = (
        "Call the backend's callbacks as the proxy would: connect for a client with the given query and headers, then "
        "establish, receive (a text frame) and close for the session that it is, or, if it wasn't let in, for the key "
        f"{TEST}. The exit status tells how many failed."
    )
    needs_registry = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("names", nargs="*", metavar="CALLBACK", help=f"{', '.join(callbacks.KINDS)}; none: all")
        add_client(parser)
        parser.add_argument("--json", action="store_true", help="one JSON object per line")

    def handle(self, *args: Any, **options: Any) -> None:
        if any(problem.where == conf.NO_CALLBACK for problem in settings.KUIPERBELT_PROBLEMS):
            raise CommandError(f"{conf.NO_CALLBACK}: expected the backend's auth URL, found nothing")
        names = options["names"] or callbacks.KINDS
        if unknown := sorted(set(names) - set(callbacks.KINDS)):
            raise CommandError(f"CALLBACK: expected {', '.join(callbacks.KINDS)}, found {', '.join(unknown)}")
        self.finish(asyncio.run(self._run(names, options)))

    async def _run(self, names: Sequence[str], options: dict[str, Any]) -> int:
        failed = 0
        try:
            async for call in calls(names, os.fsencode(options["query"]), options["header"]):
                failed += call.ok is False
                if options["json"]:
                    fields = ("callback", "ok", "seconds", "url", "text")
                    self.json_lines([{name: getattr(call, name) for name in fields}])
                    continue
                state = {True: "ok", False: "FAILED", None: "off"}[call.ok]
                taken = f"{call.seconds * 1000:.0f} ms" if call.seconds else ""
                self.stdout.write(f"{call.callback:9}  {state:6}  {taken:>8}  {shown(call.url)}".rstrip())
                if call.text:
                    self.stdout.write(f"    {shown(call.text)}")
        finally:
            await callbacks.shut_down()
        return failed
