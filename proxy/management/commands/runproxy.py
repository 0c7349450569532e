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
            listener = server.listen(config)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
            raise CommandError(f"can't listen on {server.where(config)}: {reason}") from error
        server.run(application, listener, config)
