"""`manage.py runproxy`: serve the proxy with uvicorn, on the port or UNIX socket of the configuration."""

import asyncio
import logging
import socket
import ssl
import sys
from argparse import SUPPRESS, ArgumentTypeError
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from proxy import conf, listeners, machine, redis_check, reload_workers, server, tls, workers
from proxy.findings import State

MAX_WORKERS = 1024  # more than any machine has use for; a typing error shouldn't fork for ever

logger = logging.getLogger("proxy.server")


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
        parser.add_argument(
            "--tls-cert", metavar="FILE", help="certificate chain, PEM, as EKBO_TLS_CERT; with --tls-key"
        )
        parser.add_argument("--tls-key", metavar="FILE", help="its private key, PEM, as EKBO_TLS_KEY")
        parser.add_argument(
            "--reload-workers",
            action="store_true",
            help="replace the workers of the proxy that this configuration has, one by one, by the code now on disk",
        )
        parser.add_argument("--take-over", type=int, metavar="DESCRIPTOR", help=SUPPRESS)  # the supervisor's word

    def handle(self, *args: Any, **options: Any) -> None:
        if options["reload_workers"]:
            self._reload_workers()
            return
        from kbproject.asgi import application

        conf.override(**{name: options[name] for name in ("tls_cert", "tls_key") if options[name]})
        config = conf.options()
        context = _tls_context(config)
        if options["take_over"] is not None:
            try:
                workers.take_over(options["take_over"], application, config, context)
            except (OSError, ValueError) as error:
                raise CommandError(f"can't take over from a worker: {error}") from error
            return
        count: int = options["workers"]
        if count > 1 and not config.clustered:
            raise CommandError(
                f"--workers {count}: expected Redis, over which workers reach each other's sessions, found none; "
                "set EKBO_REDIS_URL, or leave --workers out"
            )
        sockets = list(zip(*(_listen(place, count) for place in listeners.places(config)), strict=True))
        _warn(config, count)
        if count == 1:
            server.run(application, sockets[0], config, context)
        else:
            workers.run(application, sockets, config, context)

    def _reload_workers(self) -> None:
        if settings.KUIPERBELT_PROBLEMS:
            sys.exit(conf.report(settings.KUIPERBELT_PROBLEMS))
        try:
            for line in reload_workers.ask(listeners.places(conf.options())[0]):
                self.stdout.write(line)
        except KeyboardInterrupt:
            self.stderr.write("interrupted; the replacement goes on, and the proxy's log tells of it")
            sys.exit(130)  # as console.INTERRUPTED, which isn't imported: a process that serves starts sooner without


def _warn(config: conf.Options, count: int) -> None:
    """Say what of the surroundings won't do, while clients wait in the backlog: not for long, if Redis hangs."""
    redis = asyncio.run(redis_check.check_settings(config, count))
    for finding in (*machine.check(config, count), *redis):
        if finding.state is not State.OK and finding.advice:
            logger.warning("%s. %s", finding.text, finding.advice)


def _tls_context(config: conf.Options) -> ssl.SSLContext | None:
    if bool(config.tls_cert) != bool(config.tls_key):
        raise CommandError("expected --tls-cert and --tls-key, or none of them, found only one")
    if not config.tls_cert:
        return None
    try:
        return tls.server_context(config.tls_cert, config.tls_key)
    except ValueError as error:
        raise CommandError(f"can't serve TLS: {error}") from error


def _listen(place: listeners.Place, count: int) -> list[socket.socket]:
    try:
        return place.listen(count)
    except OSError as error:
        why = f"{listeners.why(error)}{listeners.advice(error)}"
        raise CommandError(f"can't listen on {place.in_words()}: {why}") from error


def _worker_count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_WORKERS:
        raise ArgumentTypeError(f"expected a whole number from 1 to {MAX_WORKERS}, found {text!r}")
    return int(text)
