"""`manage.py listnodes`: the processes that serve, and how they are."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandParser
from django.forms.models import model_to_dict
from django.utils.timezone import now

from proxy import conf
from proxy.console import ConsoleCommand, ago
from proxy.models import Node


class Command(ConsoleCommand):
    help = "List nodes: one row per process, the newest first. Ages are by this machine's clock."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--all", action="store_true", help="those that have ended, too")
        parser.add_argument("--json", action="store_true", help="one JSON object per line, with all that is known")

    def handle(self, *args: Any, **options: Any) -> None:
        nodes = Node.objects.order_by("-started_at", "name", "worker")
        if not options["all"]:
            nodes = nodes.filter(ended_at=None)
        records = _records(nodes.iterator())
        if options["json"]:
            self.json_lines(records)
            return
        titles = (
            "NODE",
            "PID",
            "WORKER",
            "API",
            "STATE",
            "STARTED",
            "HEARTBEAT",
            "NOW",
            "CONNECTS",
            "MESSAGES",
            "ERRORS",
        )
        self.table(titles, map(_cells, records))


def _records(nodes: Iterator[Node]) -> Iterator[dict[str, Any]]:
    for node in nodes:
        # Without its own id: model_to_dict leaves out what can't be edited.
        yield {"id": node.pk, **model_to_dict(node), "state": _state(node)}


def _state(node: Node) -> str:
    if node.declared_dead:
        return "declared dead"
    if node.ended_at:
        return "ended"
    limit = timedelta(seconds=conf.options().node_timeout)
    return "silent" if now() - node.heartbeat_at > limit else "alive"


def _cells(record: dict[str, Any]) -> tuple[str, ...]:
    errors = record["connect_errors"] + record["message_errors"]
    counts = (record["connections"], record["total_connections"], record["total_messages"], errors)
    return (
        record["name"],
        str(record["pid"]),
        str(record["worker"]),
        record["endpoint"],
        record["state"],
        ago(record["started_at"]),
        ago(record["heartbeat_at"]),
        *map(str, counts),
    )
