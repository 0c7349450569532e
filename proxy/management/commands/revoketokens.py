"""`manage.py revoketokens`: push tokens that are good for nothing any more."""

from typing import Any
from uuid import UUID

from django.core.management.base import CommandParser

from proxy import conf, token_records
from proxy.console import ConsoleCommand, in_words
from proxy.nodes import BEATS
from proxy.printable import shown


class Command(ConsoleCommand):
    help = "Revoke push tokens. The exit status tells how many weren't found, up to 100."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("ids", nargs="+", metavar="ID", help="as maketoken and listtokens show it")

    def handle(self, *args: Any, **options: Any) -> None:
        failed = 0
        for text in options["ids"]:
            if not _revoke(text):
                failed += 1
                self.stderr.write(f"{shown(text)}: no token has this id")
        within = conf.options().node_timeout / BEATS
        done = in_words(len(options["ids"]) - failed, "token")
        self.stdout.write(f"revoked {done}; every process knows within {within:g} s")
        self.finish(failed)


def _revoke(text: str) -> bool:
    try:
        identity = UUID(text)
    except ValueError:
        return False
    return token_records.revoke(identity)
