"""Django's settings, and the only place that reads the environment."""

import os
from pathlib import Path
from typing import Any

import dj_database_url
from django.core.management.utils import get_random_secret_key

from proxy import conf
from proxy.redis_hosts import redis_hosts

KUIPERBELT, KUIPERBELT_PROBLEMS = conf.load(os.environ)
KUIPERBELT_UNKNOWN_VARIABLES = conf.unknown_variables(os.environ)

DEBUG = False
SECRET_KEY = get_random_secret_key()  # required by Django; nothing is signed yet
ALLOWED_HOSTS: list[str] = []

INSTALLED_APPS = [
    "daphne",
    "channels",
    "proxy",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
# For the admin; the proxy's own paths don't pass through here.
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
STATIC_URL = "static/"
WHITENOISE_USE_FINDERS = True

BASE_DIR = Path(__file__).resolve().parent.parent
DATABASES = {"default": dj_database_url.parse(KUIPERBELT.database_url or f"sqlite:///{BASE_DIR}/kuiperbelt.sqlite3")}
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",  # two writers wait for each other instead of failing
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

ROOT_URLCONF = "kbproject.urls"
ASGI_APPLICATION = "kbproject.asgi.application"
CHANNEL_LAYERS: dict[str, Any] = {"default": {"BACKEND": "proxy.layers.LocalChannelLayer"}}
if KUIPERBELT.clustered:
    CHANNEL_LAYERS["default"] = {
        "BACKEND": "proxy.cluster.RedisChannelLayer",
        "CONFIG": {
            "hosts": redis_hosts(KUIPERBELT),
            "prefix": KUIPERBELT.redis_prefix,
            "timeout": KUIPERBELT.reply_timeout,
            # A session whose socket is blocked for longer is closed.
            "wait_limit": KUIPERBELT.blocked_timeout + KUIPERBELT.reply_timeout,
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
