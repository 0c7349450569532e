"""Django's settings, and the only place that reads the environment."""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dj_database_url

from proxy import conf
from proxy.embedded_file import OwnersConnection
from proxy.secret_key import kept_key

KUIPERBELT, KUIPERBELT_PROBLEMS = conf.load(os.environ)
KUIPERBELT_LOAD = partial(conf.load, os.environ)  # again, at SIGHUP
KUIPERBELT_CONFIG_FILE = os.environ.get("EKBO_CONFIG", "")
KUIPERBELT_UNKNOWN_VARIABLES = conf.unknown_variables(os.environ)

DEBUG = False
# Names under which a browser may ask for the admin; the proxy's own paths take any.
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]", *(urlsplit(origin).hostname for origin in KUIPERBELT.admin_origins)]
# Behind nginx TLS can't be seen, so what forms are posted from is configured.
CSRF_TRUSTED_ORIGINS = list(KUIPERBELT.admin_origins)
CSRF_COOKIE_SECURE = SESSION_COOKIE_SECURE = bool(CSRF_TRUSTED_ORIGINS) and all(
    origin.startswith("https:") for origin in CSRF_TRUSTED_ORIGINS
)
# The application that clients belong to may be on the same host: neither its cookies nor /connect see the admin's.
SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = "kuiperbelt_session", "kuiperbelt_csrf"
SESSION_COOKIE_PATH = CSRF_COOKIE_PATH = "/admin/"
CSRF_FAILURE_VIEW = "proxy.pages.forged"
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"
X_FRAME_OPTIONS = "DENY"
# What of `check --deploy` isn't for us to decide, or is said in the options' words by proxy/deploy_checks.py.
SILENCED_SYSTEM_CHECKS = [
    "security.W004",  # HSTS binds a whole host name, other applications too: that is for who has its TLS
    "security.W008",  # no redirect to https: the admin is also asked for as localhost, over SSH or the API's listener
    # Cookies are secure when all admin_origins are https; without any, the admin is for localhost only.
    "security.W012",
    "security.W016",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]

INSTALLED_APPS = [
    # All that its app brings is a `runserver` that knows WebSockets, and to import it is half of a process's start.
    *(["daphne"] if "runserver" in sys.argv else []),
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
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "proxy.pages.StaticFiles",
    "proxy.pages.PagesMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
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
        "factory": OwnersConnection,
    }
    SQLITE_FILE = DATABASES["default"]["NAME"]
    SECRET_KEY_FILE = Path(SQLITE_FILE).with_suffix(".key")
else:
    # A server that is gone without a word is noticed in seconds, not in the quarter of an hour that TCP gives it.
    silence = {"connect_timeout": 5, "tcp_user_timeout": 10_000, "keepalives_idle": 10, "keepalives_interval": 5}
    DATABASES["default"]["OPTIONS"] = silence | DATABASES["default"].get("OPTIONS", {})
    SQLITE_FILE = ""
    SECRET_KEY_FILE = BASE_DIR / "kuiperbelt.key"
SECRET_KEY = KUIPERBELT.secret_key or kept_key(SECRET_KEY_FILE)
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

ROOT_URLCONF = "kbproject.urls"
ASGI_APPLICATION = "kbproject.asgi.application"
CHANNEL_LAYERS: dict[str, Any] = {"default": {"BACKEND": "proxy.layers.LocalChannelLayer"}}
if KUIPERBELT.clustered:
    from proxy.redis_hosts import channel_prefix, redis_hosts  # redis is a tenth of a process's start

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
FORMAT_MODULE_PATH = ["kbproject.formats"]

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "text": {"()": "proxy.printable.LineFormatter", "format": "%(asctime)s %(levelname)s %(name)s %(message)s"},
        "json": {"()": "proxy.printable.JsonFormatter"},
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": KUIPERBELT.log_format}},
    "loggers": {
        "proxy": {"level": KUIPERBELT.log_level.upper()},  # logs.use_level changes it
        "proxy.access": {"level": "WARNING" if KUIPERBELT.suppress_access_log else "NOTSET"},
        # A line for each unknown path that anybody asks for.
        "django.request": {"level": "ERROR"},
        # A traceback for each request with an unknown Host, or with too many fields.
        "django.security": {"level": "CRITICAL"},
        # A traceback for each subprotocol that isn't ASCII.
        "daphne.ws_protocol": {"level": "CRITICAL"},
        # uvicorn's own lines for connections show query strings.
        "uvicorn": {"level": "WARNING"},
    },
    "root": {"handlers": ["console"], "level": "WARNING"},
}
