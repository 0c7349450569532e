"""Django's settings, and the only place that reads the environment."""

import os
from typing import Any

from django.core.management.utils import get_random_secret_key

from proxy import conf
from proxy.redis_hosts import channel_prefix, redis_hosts

KUIPERBELT, KUIPERBELT_PROBLEMS = conf.load(os.environ)
KUIPERBELT_UNKNOWN_VARIABLES = conf.unknown_variables(os.environ)

DEBUG = False
SECRET_KEY = get_random_secret_key()  # required by Django; nothing is signed yet
ALLOWED_HOSTS: list[str] = []

INSTALLED_APPS = ["daphne", "channels", "proxy"]
MIDDLEWARE: list[str] = []

ROOT_URLCONF = "kbproject.urls"
ASGI_APPLICATION = "kbproject.asgi.application"
CHANNEL_LAYERS: dict[str, Any] = {"default": {"BACKEND": "proxy.layers.LocalChannelLayer"}}
if KUIPERBELT.clustered:
    CHANNEL_LAYERS["default"] = {
        "BACKEND": "proxy.cluster.RedisChannelLayer",
        "CONFIG": {
            "hosts": redis_hosts(KUIPERBELT),
            "prefix": channel_prefix(KUIPERBELT),
            "timeout": KUIPERBELT.reply_timeout,
            # The longest that a /send may wait for room in a session's queue.
            "wait_limit": max(KUIPERBELT.blocked_timeout, KUIPERBELT.send_timeout) + KUIPERBELT.reply_timeout,
            "join": KUIPERBELT.duplicate_session == "join",
        },
    }

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {
        "proxy": {"level": "INFO"},
        "proxy.access": {"level": "WARNING" if KUIPERBELT.suppress_access_log else "INFO"},
        # A line for each unknown path that anybody asks for.
        "django.request": {"level": "ERROR"},
        # uvicorn's own lines for connections show query strings.
        "uvicorn": {"level": "WARNING"},
    },
    "root": {"handlers": ["console"], "level": "WARNING"},
}
