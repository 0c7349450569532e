"""The lean ASGI handler for the proxy's own HTTP paths; everything else goes to Django's.

Django's handler runs middleware and starts two threads per request, which costs more than ten times the push itself.
The views here are async, use no ORM and want no middleware, so this handler makes the request, resolves, awaits the
view and sends the response. Nothing else.
"""

import io
import logging
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.http import Http404, HttpResponse
from django.urls import URLResolver, get_resolver

from proxy import conf
from proxy.exceptions import BodyTooLarge

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

logger = logging.getLogger("proxy.api")
access_logger = logging.getLogger("proxy.access")


class ClientHungUp(Exception):
    """The request's body never came in whole, so nothing may be done with it."""


class ProxyRequest(ASGIRequest):
    """A request whose body is read by the view, and never over a limit."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        super().__init__(scope, io.BytesIO())
        self._receive = receive

    async def read_body(self, limit: int) -> bytes:
        """The body, of at most `limit` bytes; raises BodyTooLarge, as soon as that is known, or ClientHungUp."""
        if int(self.META.get("CONTENT_LENGTH") or 0) > limit:
            raise BodyTooLarge(limit)
        body: bytes = b""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientHungUp
            body += message.get("body", b"")
            if len(body) > limit:
                raise BodyTooLarge(limit)
            if not message.get("more_body", False):
                return body


class ProxyHandler:
    """ASGI application: proxy paths here, the rest to `fallback`, which is Django's handler."""

    def __init__(self, fallback: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._fallback = fallback
        self._resolver: URLResolver = get_resolver("proxy.urls")
        options = conf.options()
        self._paths = frozenset(
            {options.connect_path, options.send_path, options.close_path, options.stats_path, options.ping_path}
        )
        self._log = not options.suppress_access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in self._paths:
            await self._fallback(scope, receive, send)
            return
        started = perf_counter()
        try:
            response = await self._respond(scope, receive)
        except ClientHungUp:
            return
        content = response.content
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in response.items()]
        headers.append((b"content-length", b"%d" % len(content)))
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": content})
        if self._log:
            taken = perf_counter() - started
            access_logger.info("%s %s %d %.6f", scope["method"], scope["path"], response.status_code, taken)

    async def _respond(self, scope: Scope, receive: Receive) -> HttpResponse:
        try:
            request = ProxyRequest(scope, receive)
            match = self._resolver.resolve(scope["path"])
            response: HttpResponse = await match.func(request)
        except (ClientHungUp, Http404):
            raise
        except Exception:
            logger.exception("%s %s: unexpected error", scope["method"], scope["path"])
            return HttpResponse(b'{"result":"NG"}', status=500, content_type="application/json; charset=utf-8")
        return response
