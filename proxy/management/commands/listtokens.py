"""`manage.py listtokens`: push tokens that were made."""

from typing import Any

from django.core.management.base import CommandParser
from django.forms.models import model_to_dict
from django.utils.timezone import now

from proxy.console import ConsoleCommand, ago
from proxy.models import Token


class Command(ConsoleCommand):
    help = "List push tokens, the newest first. The tokens themselves aren't kept."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--all", action="store_true", help="those that are revoked or have expired, too")
        parser.add_argument("--json", action="store_true", help="one JSON object per line")

    def handle(self, *args: Any, **options: Any) -> None:
        found = Token.objects.order_by("-made_at")
        if not options["all"]:
            found = found.filter(revoked_at=None, expires_at__gt=now())
        # Without its own id: model_to_dict leaves out what can't be edited.
        records = ({"id": token.pk, **model_to_dict(token), "state": _state(token)} for token in found.iterator())
        if options["json"]:
            self.json_lines(records)
            return
        self.table(("ID", "VERBS", "PREFIX", "STATE", "MADE", "EXPIRES", "NAME"), map(_cells, records))


def _state(token: Token) -> str:
    if token.revoked_at:
        return "revoked"
    return "good" if token.expires_at > now() else "expired"


def _cells(record: dict[str, Any]) -> tuple[str, ...]:
    expires = f"{record['expires_at']:%Y-%m-%d %H:%M}"
    made = ago(record["made_at"])
    return str(record["id"]), record["verbs"], record["prefix"], record["state"], made, expires, record["name"]
