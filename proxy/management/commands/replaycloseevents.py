"""`manage.py replaycloseevents`: tell the backend again of ends that it was told of in vain."""

from collections.abc import Iterator
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db.models import QuerySet

from proxy import selection, store
from proxy.console import ConsoleCommand, ago, in_words
from proxy.models import Session

FIELDS = ("key", "connection", "address", "connected_at", "ended_at", "code", "reason", "attempts", "last_error")


class Command(ConsoleCommand):
    help = (
        "Have close events that were given up told again, of the named keys, or, with --all or filters, many. The "
        "proxy takes them up within seconds, with the event ids that they had."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        selection.add_keys(parser, "sessions that have ended")
        parser.add_argument("--all", action="store_true", help="all that were given up")
        selection.add_filters(parser, "ended")
        parser.add_argument("--json", action="store_true", help="with --dry-run: one JSON object per line")
        selection.add_asking(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        if not (options["keys"] or options["all"] or selection.has_filter(options)):
            raise CommandError("expected keys, or --all or filters, found neither; see --help")
        wanted = selection.wanted(options, "ended_at")
        failed = Session.objects.filter(wanted, ended_at__isnull=False, gave_up=True)
        if options["dry_run"]:
            self._show(failed, options["json"])
            return
        total = failed.count()
        if total and not options["keys"]:
            self.confirm(f"Tell the backend again of {in_words(total, 'end')}?", options["no_input"])
        unknown = set(options["keys"]) - set(failed.values_list("key", flat=True) if options["keys"] else ())
        self.stdout.write(f"to be told again: {in_words(store.replay(wanted), 'close event')}")
        for key in sorted(unknown):
            self.stderr.write(f"{key}: no close event of it was given up")
        self.finish(len(unknown))

    def _show(self, failed: "QuerySet[Session]", as_json: bool) -> None:
        records = _records(failed)
        if as_json:
            self.json_lines(records)
        else:
            self.table(("KEY", "ENDED", "CODE", "REASON", "ATTEMPTS", "LAST ERROR"), map(_cells, records))


def _records(failed: "QuerySet[Session]") -> Iterator[dict[str, Any]]:
    for row in failed.order_by("ended_at").values_list(*FIELDS).iterator():
        yield dict(zip(FIELDS, row, strict=True))


def _cells(record: dict[str, Any]) -> tuple[str, ...]:
    ended, code, attempts = ago(record["ended_at"]), str(record["code"]), str(record["attempts"])
    return record["key"], ended, code, record["reason"], attempts, record["last_error"]
