"""What surrounds Django's own pages, the admin's: static files, security headers, refusals, a failing database.

The proxy's own paths don't pass through here (handlers.py).
"""

import logging
from collections.abc import Callable
from typing import Any

from django.core.exceptions import DisallowedHost, ValidationError
from django.db import Error as DatabaseError
from django.http import HttpRequest, HttpResponse
from django.views import defaults
from whitenoise.middleware import WhiteNoiseMiddleware

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy: whatever a key or user agent holds, no script of it runs."""

DATABASE_TROUBLE = (
    "The database can't be used now, so there is nothing to be seen here. Connections and pushes go on.\n"
    "If this is a new installation: manage.py migrate. Else the proxy's log and /ready say more.\n"
)

UNKNOWN_ADDRESS = (
    "The admin isn't expected at this address. Ask for it as localhost, or have EKBO_ADMIN_ORIGINS name what\n"
    "stands before /admin/ in the browser's address bar, as https://ops.example.com.\n"
)

logger = logging.getLogger("proxy.admin")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Any 400 of these pages; of an unknown host with what to do, since nothing else says so."""
    if isinstance(exception, DisallowedHost):
        return HttpResponse(UNKNOWN_ADDRESS, status=400, content_type="text/plain; charset=utf-8")
    return defaults.bad_request(request, exception)


def forged(request: HttpRequest, reason: str = "") -> HttpResponse:
    """A form without our token, or from another address: http instead of https, mostly."""
    text = f"{reason}\n\n{UNKNOWN_ADDRESS}" if reason.startswith("Origin checking") else f"{reason}\n"
    return HttpResponse(text, status=403, content_type="text/plain; charset=utf-8")


class PagesMiddleware:
    """Adds the headers, and answers 503 instead of 500 when the database fails."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        try:
            response = self._get_response(request)
        except DatabaseError as error:
            response = self.process_exception(request, error)
        response.setdefault("Content-Security-Policy", POLICY)
        return response

    def process_exception(self, request: HttpRequest, error: Exception) -> Any:
        """503 if it is the database's fault, 400 for an id that is none; else nothing, so that Django goes on."""
        if isinstance(error, ValidationError):
            return HttpResponse("; ".join(error.messages), status=400, content_type="text/plain; charset=utf-8")
        if not isinstance(error, DatabaseError):
            return None
        logger.error("%s %s: database: %s", request.method, request.path, str(error).partition("\n")[0])
        return HttpResponse(DATABASE_TROUBLE, status=503, content_type="text/plain; charset=utf-8")


class StaticFiles(WhiteNoiseMiddleware):
    """WhiteNoise, answering with whole files: under ASGI Django warns of its streams. All of ours are small."""

    @staticmethod
    def serve(static_file: Any, request: HttpRequest) -> HttpResponse:
        found = static_file.get_response(request.method, request.META)
        content = b""
        if found.file is not None:
            with found.file as file:
                content = file.read()
        return HttpResponse(content, status=int(found.status), headers=dict(found.headers))
