"""`manage.py maketoken`: a push token, which allows some verbs on session keys that begin with a prefix."""

import re
from argparse import ArgumentTypeError
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.utils.timezone import now

from proxy import conf, database, token_records, values
from proxy.console import ConsoleCommand
from proxy.printable import shown
from proxy.protocol import is_session_key
from proxy.tokens import VERBS

MAX_LIFE = timedelta(days=3650)


class Command(ConsoleCommand):
    help = (
        "Make a token for the API that allows less than a key of EKBO_API_KEYS, and print it: this once, for it isn't "
        "kept. It is sent as such a key is: Authorization: Bearer TOKEN."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--prefix", required=True, help="how session keys must begin; '' allows all")
        parser.add_argument(
            "--verb", action="append", required=True, choices=VERBS, help="what is allowed; may be repeated"
        )
        parser.add_argument(
            "--expires", type=_life, default=timedelta(days=30), metavar="TIME", help="as 30d, 12h; default 30d"
        )
        parser.add_argument("--name", default="", help="who gets it or what for, to be found in listtokens")

    def handle(self, *args: Any, **options: Any) -> None:
        prefix, name = options["prefix"], options["name"]
        if prefix and not is_session_key(prefix):
            raise CommandError(f"--prefix: expected up to 256 visible ASCII characters, no comma, found {prefix!r}")
        if not name.isprintable() or len(name) > 255:
            raise CommandError(f"--name: expected up to 255 printable characters, found {name!r}")
        if not (conf.options().secret_key or settings.SECRET_KEY_FILE.exists()):
            raise CommandError(
                "expected a key that the proxy's processes have too, found none; set EKBO_SECRET_KEY, or let this user "
                f"write {settings.SECRET_KEY_FILE}"
            )
        database.migrate_embedded()
        verbs = [verb for verb in VERBS if verb in options["verb"]]
        record, token = token_records.make(name, prefix, verbs, now() + options["expires"])
        self.stderr.write(
            f"token {record.pk}: {', '.join(verbs)}, keys that begin with {shown(prefix)!r}, "
            f"until {record.expires_at:%Y-%m-%d %H:%M} UTC"
        )
        self.stdout.write(token)


def _life(text: str) -> timedelta:
    expected = "a time like 30d, 12h or 90m, of at most 3650d"
    try:
        if days := re.fullmatch(r"([0-9]{1,4})d", text):
            life = timedelta(days=int(days[1]))
        else:
            life = timedelta(seconds=values.positive_duration(text))
    except (ValueError, OverflowError):
        raise ArgumentTypeError(f"expected {expected}, found {text!r}") from None
    if not timedelta(seconds=1) <= life <= MAX_LIFE:
        raise ArgumentTypeError(f"expected {expected}, found {text!r}")
    return life
