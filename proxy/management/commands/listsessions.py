"""`manage.py listsessions`: who is connected."""

from collections.abc import Iterator
from typing import Any

from django.core.management.base import CommandParser

from proxy import selection
from proxy.console import ConsoleCommand, ago, in_words
from proxy.models import Node

FIELDS = ("key", "address", "node", "transport", "connected_at", "path", "user_agent", "subprotocol", "endpoint")


class Command(ConsoleCommand):
    help = "List live sessions, the oldest first."

    def add_arguments(self, parser: CommandParser) -> None:
        selection.add_keys(parser, "sessions; none: all")
        selection.add_filters(parser, "connected")
        parser.add_argument("--json", action="store_true", help="one JSON object per line, with all that is known")

    def handle(self, *args: Any, **options: Any) -> None:
        records = self._records(options)
        if options["json"]:
            self.json_lines(records)
            return
        titles = ("KEY", "ADDRESS", "NODE", "TRANSPORT", "CONNECTED", "PATH", "USER AGENT")
        count = self.table(titles, map(_cells, records))
        self.stderr.write(in_words(count, "session"), self.style.NOTICE)

    def _records(self, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
        names = dict(Node.objects.values_list("id", "name"))
        fields = ("connection", *FIELDS, "query")
        columns = ["node_id" if name == "node" else name for name in fields]
        for row in selection.live(options).order_by("connected_at").values_list(*columns).iterator():
            record = dict(zip(fields, row, strict=True))
            record["node"] = names.get(record["node"], "-")
            yield record


def _cells(record: dict[str, Any]) -> tuple[str, ...]:
    return (
        record["key"],
        record["address"],
        record["node"],
        record["transport"],
        ago(record["connected_at"]),
        record["path"],
        record["user_agent"],
    )
