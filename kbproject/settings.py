"""Django's settings, and the only place that reads the environment."""

import os
from pathlib import Path

from django.core.management.utils import get_random_secret_key

from proxy import conf

BASE_DIR = Path(__file__).resolve().parent.parent

KUIPERBELT, KUIPERBELT_PROBLEMS = conf.load(os.environ)
KUIPERBELT_UNKNOWN_VARIABLES = conf.unknown_variables(os.environ)

DEBUG = os.environ.get("EKBO_DEBUG", "") == "true"
# Without one of its own every start has a new key, which ends logins to the admin but nothing else.
SECRET_KEY = os.environ.get("EKBO_SECRET_KEY") or get_random_secret_key()
ALLOWED_HOSTS = (os.environ.get("EKBO_ALLOWED_HOSTS") or "localhost,127.0.0.1,[::1]").split(",")

INSTALLED_APPS = [
    "daphne",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "proxy",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "kbproject.urls"
ASGI_APPLICATION = "kbproject.asgi.application"
CHANNEL_LAYERS = {"default": {"BACKEND": "proxy.layers.LocalChannelLayer"}}

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

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "kuiperbelt.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"uvicorn": {"()": "proxy.logs.UvicornFilter"}},
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {
        "proxy": {"level": "INFO"},
        "proxy.access": {"level": "WARNING" if KUIPERBELT.suppress_access_log else "INFO"},
        # uvicorn's own lines for connections show query strings.
        "uvicorn": {"level": "WARNING"},
        "uvicorn.error": {"filters": ["uvicorn"]},
    },
    "root": {"handlers": ["console"], "level": "WARNING"},
}
