"""The ASGI application, for `daphne kbproject.asgi:application` and `manage.py runproxy`."""

import logging
import os
import sys

from channels.routing import ProtocolTypeRouter
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kbproject.settings")
django_application = get_asgi_application()

# What follows needs Django's settings.
from django.conf import settings  # noqa: E402

from proxy import conf, logs, reload  # noqa: E402
from proxy.handlers import ProxyHandler  # noqa: E402
from proxy.lifespan import lifespan, watch_daphne  # noqa: E402
from proxy.routing import websocket_application  # noqa: E402

if settings.KUIPERBELT_PROBLEMS:
    sys.exit(conf.report(settings.KUIPERBELT_PROBLEMS))

for name in settings.KUIPERBELT_UNKNOWN_VARIABLES:
    logging.getLogger("proxy").warning(conf.unread(name))

reload.on_reload("log level", logs.use_level)
watch_daphne()
application = ProtocolTypeRouter(
    {
        "http": ProxyHandler(django_application),
        "websocket": websocket_application,
        "lifespan": lifespan,
    }
)
