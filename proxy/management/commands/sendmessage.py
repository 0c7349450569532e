"""`manage.py sendmessage`: a frame for some sessions, as a backend's /send would."""

import os
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from proxy import conf, protocol, remote, selection
from proxy.console import ConsoleCommand


class Command(ConsoleCommand):
    help = (
        "Send a frame to sessions: sendmessage KEY... TEXT, or sendmessage KEY... --file FILE. The exit status tells "
        "how many failed, up to 100."
    )
    needs_registry = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "words", nargs="+", metavar="KEY... TEXT", help="session keys, then the text; -: from stdin"
        )
        parser.add_argument("--file", metavar="FILE", help="what to send instead of TEXT; -: stdin")
        parser.add_argument("--binary", action="store_true", help="send a binary frame; without, it is text")

    def handle(self, *args: Any, **options: Any) -> None:
        keys = selection.check_keys(options["words"] if options["file"] else options["words"][:-1])
        if not keys:
            raise CommandError("expected KEY... TEXT, or KEY... with --file, found only one word")
        text = options["words"][-1]
        body = _read(options["file"]) if options["file"] else _read("-") if text == "-" else os.fsencode(text)
        limit = conf.options().max_body_size
        if len(body) > limit:
            raise CommandError(f"expected a message of at most {limit} bytes (EKBO_MAX_BODY_SIZE), found {len(body)}")
        try:
            frame = protocol.make_frame(body, protocol.BINARY_TYPE if options["binary"] else "")
        except UnicodeDecodeError as error:
            raise CommandError(
                f"expected text in UTF-8, found other bytes at {error.start}; --binary sends a binary frame"
            ) from None
        self.push(remote.Order(frame), selection.batches(keys), len(keys), "sent to")


def _read(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise CommandError(f"--file {name}: expected a readable file, found: {error.strerror}") from error
