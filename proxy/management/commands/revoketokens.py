"""`manage.py revoketokens`: push tokens that are good for nothing any more."""

import os
from contextlib import suppress
from typing import Any
from uuid import UUID

from django.core.management.base import CommandParser

from proxy import conf, token_records, tokens
from proxy.console import ConsoleCommand, in_words
from proxy.exceptions import Unauthorized
from proxy.nodes import BEATS
from proxy.printable import shown


class Command(ConsoleCommand):
    help = (
        "Revoke push tokens. The exit status tells how many weren't found, up to 100. A token itself can be given in "
        "place of its id, also where the database doesn't know it: that of another machine, or of a lost database."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("ids", nargs="+", metavar="ID", help="as maketoken and listtokens show it, or the token")

    def handle(self, *args: Any, **options: Any) -> None:
        failed = 0
        for text in options["ids"]:
            if problem := _revoke(text):
                failed += 1
                self.stderr.write(problem)
        within = conf.options().node_timeout / BEATS
        done = in_words(len(options["ids"]) - failed, "token")
        self.stdout.write(f"revoked {done}; every process with this database knows within {within:g} s")
        self.finish(failed)


def _revoke(text: str) -> str:
    """Why it can't be done, or nothing."""
    given = os.fsencode(text)
    if tokens.looks_like_one(given):
        try:
            token_records.revoke_token(given)
        except Unauthorized as error:
            return f"{shown(text[:8])}…: {error}"
        return ""
    with suppress(ValueError):
        if token_records.revoke(UUID(text)):
            return ""
    return f"{shown(text)}: no token has this id"
