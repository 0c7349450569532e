"""`manage.py runproxy`: serve the proxy with uvicorn, on the port or UNIX socket of the configuration."""

import os
from argparse import ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from proxy import conf, server, workers

MAX_WORKERS = 1024  # more than any machine has use for; a typing error shouldn't fork for ever


class Command(BaseCommand):
    help = "Serve the proxy with uvicorn on the port or UNIX socket of the configuration."
    requires_system_checks = ()  # importing the application reports the configuration's problems, once

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--workers",
            type=_worker_count,
            default=1,
            metavar="N",
            help="processes that serve: one per core is best; more than one need Redis (EKBO_REDIS_URL); default 1",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        from kbproject.asgi import application

        config = conf.options()
        count: int = options["workers"]
        if count > 1 and not config.clustered:
            raise CommandError(
                f"--workers {count}: expected Redis, over which workers reach each other's sessions, found none; "
                "set EKBO_REDIS_URL, or leave --workers out"
            )
        try:
            listeners = server.listen(config, count)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
            raise CommandError(f"can't listen on {server.where(config)}: {reason}") from error
        if count == 1:
            server.run(application, listeners[0], config)
        else:
            workers.run(application, listeners, config)


def _worker_count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_WORKERS:
        raise ArgumentTypeError(f"expected a whole number from 1 to {MAX_WORKERS}, found {text!r}")
    return int(text)
