"""`manage.py doctor`: what is wrong with this installation, in plain words, or as JSON."""

from collections import Counter
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandParser

from proxy import doctor
from proxy.console import ConsoleCommand, add_client
from proxy.findings import State
from proxy.printable import shown


class Command(ConsoleCommand):
    help = (
        "Say what is wrong: limits of the machine, ports, Redis, database, clocks, callbacks; and, if the proxy runs, "
        "connect as a client, push to it through each node, and close. Run it as the proxy's user, with its "
        "configuration. The exit status is 1 if something has FAILED; warnings don't count."
    )
    needs_registry = False
    needs_options = False

    def add_arguments(self, parser: CommandParser) -> None:
        add_client(parser)
        parser.add_argument("--json", action="store_true", help="one JSON object per line")

    def handle(self, *args: Any, **options: Any) -> None:
        states: Counter[State] = Counter()
        for finding in doctor.findings(options["query"], options["header"]):
            states[finding.state] += 1
            if options["json"]:
                self.json_lines([asdict(finding)])
                continue
            loud = finding.state in (State.FAILED, State.WARNING)
            state = finding.state.upper() if loud else str(finding.state)
            self.stdout.write(f"{finding.area:13}  {state:7}  {shown(finding.text)}")
            if finding.advice:
                self.stdout.write(f"    {shown(finding.advice)}")
        if not options["json"]:
            self.stdout.write(", ".join(f"{states[state]} {state}" for state in State))
        self.finish(min(1, states[State.FAILED]))
