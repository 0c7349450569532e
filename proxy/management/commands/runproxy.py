"""`manage.py runproxy`: serve the proxy with uvicorn, on the port or UNIX socket of the configuration."""

import os
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from proxy import conf, server


class Command(BaseCommand):
    help = "Serve the proxy with uvicorn on the port or UNIX socket of the configuration."
    requires_system_checks = ()  # importing the application reports the configuration's problems, once

    def handle(self, *args: Any, **options: Any) -> None:
        from kbproject.asgi import application

        config = conf.options()
        try:
            server.run(application, config)
        except OSError as error:
            where = config.sock or f"port {config.port}"
            raise CommandError(
                f"can't listen on {where}: {os.strerror(error.errno) if error.errno else error}"
            ) from error
