"""The lean ASGI handler for the proxy's own HTTP paths; everything else goes to Django's.

Django's handler runs middleware and starts two threads per request, which costs more than ten times the push itself.
The views here are async, use no ORM and want no middleware, so this handler makes the request, resolves, awaits the
view and sends the response. Nothing else.
"""

import asyncio
import contextlib
import io
import logging
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import resolve

from proxy import conf, logs, protocol
from proxy.exceptions import ApiError, BodyTooLarge
from proxy.stats import Stats, stats
from proxy.transports import bounded

API = "kuiperbelt.api"
"""In the `state` of a scope whose request came in at the API's own listener."""

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
View = Callable[["ProxyRequest"], Awaitable[HttpResponse | StreamingHttpResponse]]

logger = logging.getLogger("proxy.api")


class ClientHungUp(Exception):
    """The request's body never came in whole, so nothing may be done with it."""


class ProxyRequest(ASGIRequest):
    """A request whose body is read by the view, and never over a limit.

    Django's own parsing costs more than the views need, so it is done only when one asks for something of it.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.method = scope["method"]
        self._receive = receive

    def __getattr__(self, name: str) -> Any:
        if "META" in self.__dict__:  # Django has parsed already, so there is no such thing
            raise AttributeError(name)
        super().__init__(self.scope, io.BytesIO())
        return getattr(self, name)

    def header(self, name: bytes) -> str:
        """The value of the first header of this lower-case name, or nothing."""
        return next((value.decode("latin-1") for key, value in self.scope["headers"] if key == name), "")

    async def read_piece(self) -> tuple[bytes, bool]:
        """The next piece of the body, as it came, and whether there is more; raises ClientHungUp."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientHungUp
        return message.get("body", b""), message.get("more_body", False)

    async def read_body(self, limit: int) -> bytes:
        """The body, of at most `limit` bytes; raises BodyTooLarge, as soon as that is known, or ClientHungUp."""
        announced = self.header(b"content-length")
        if announced.isdecimal() and (len(announced) > 18 or int(announced) > limit):
            raise BodyTooLarge(limit)
        body = bytearray()
        more = True
        while more:
            piece, more = await self.read_piece()
            body += piece
            if len(body) > limit:
                raise BodyTooLarge(limit)
        return bytes(body)


def _for_django(body: bytes, receive: Receive, send: Send) -> tuple[Receive, Send]:
    """A `receive` of a body that is here already, and a `send`.

    That the client has hung up is heard once the answer has begun, which ends a stream. Not before: Django would cancel
    the middleware, and asgiref then leaves a future behind whose exception nobody retrieves (asgiref 3.13.0,
    SyncToAsync.__call__). Views that are in a thread go on anyway.
    """
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    begun = asyncio.Event()

    async def receive_next() -> Mapping[str, Any]:
        if messages:
            return messages.pop()
        await begun.wait()
        return await receive()

    async def send_on(message: Mapping[str, Any]) -> None:
        await send(message)
        begun.set()

    return receive_next, send_on


async def _not_found(request: ProxyRequest) -> HttpResponse:
    return HttpResponse("not found\n", status=404, content_type="text/plain; charset=utf-8")


class ProxyHandler:
    """ASGI application: proxy paths here, the rest to `fallback`, which is Django's handler."""

    def __init__(self, fallback: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._fallback = fallback
        options = conf.options()
        pushes = (options.send_path, options.close_path, options.batch_path)
        others = (options.connect_path, options.stats_path, options.ping_path, options.ready_path)
        paths = (*pushes, *others, options.metrics_path, options.sessions_path)
        # Their paths have no parameters, so each is resolved once.
        self._views: dict[str, View] = {path: resolve(path, "proxy.urls").func for path in paths}
        # Below this path, each key of a session is one.
        self._sessions = f"{options.sessions_path.rstrip('/')}/"
        self._session_view: View = resolve(f"{self._sessions}KEY", "proxy.urls").func
        self._log = not options.suppress_access_log
        self._has_api_listener = options.has_api_listener
        self._connect_path, self._ping_path = options.connect_path, options.ping_path

    def _view(self, scope: Scope) -> View | None:
        """Who answers; None: Django."""
        path = scope["path"]
        # A server that can't mark requests, like daphne, has public ones only.
        if self._has_api_listener and not self._is_served(path, API in scope.get("state", ())):
            return _not_found
        view = self._views.get(path)
        if view is None and path.startswith(self._sessions):
            return self._session_view
        return view

    def _is_served(self, path: str, api: bool) -> bool:
        return path != self._connect_path if api else path in (self._connect_path, self._ping_path)

    def _in_log(self, path: str) -> str:
        """Neither a session's key nor what anybody makes up."""
        if path in self._views:
            return path
        return f"{self._sessions}KEY" if path.startswith(self._sessions) else "another path"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        view, send = self._view(scope), bounded(send)
        started = perf_counter()
        request, body = ProxyRequest(scope, receive), b""
        response: HttpResponse | StreamingHttpResponse | None = None
        try:
            if view:
                response = await view(request)
            else:  # Django would keep a body of any size on disk, before it knows what the path is
                body = await request.read_body(conf.options().max_body_size)
        except ClientHungUp:
            return
        except ApiError as error:
            stats.add(Stats.api_refusals[str(error.status)])
            response = HttpResponse(
                protocol.refusal_body(str(error)),
                status=error.status,
                content_type=protocol.JSON,
                headers=dict(error.headers),
            )
        except asyncio.CancelledError:  # the server ends and this request took too long
            response = HttpResponse(protocol.refusal_body("shutting down"), status=503, content_type=protocol.JSON)
        except Exception:
            what = {"method": scope["method"], "path": self._in_log(scope["path"])}
            logger.exception("%(method)s %(path)s: unexpected error", {"event": "unexpected_error"} | what)
            stats.add(Stats.api_refusals["500"])
            response = HttpResponse(b'{"result":"NG"}', status=500, content_type=protocol.JSON)
        if response is None:
            await self._by_django(scope, *_for_django(body, receive, send))
            return
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in response.items()]
        if isinstance(response, StreamingHttpResponse):
            await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            await self._stream(response, send)
        else:
            content = response.content
            headers.append((b"content-length", b"%d" % len(content)))
            await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            await send({"type": "http.response.body", "body": content})
        if self._log:
            path, taken = self._in_log(scope["path"]), perf_counter() - started
            logs.log_request(scope["method"], path, response.status_code, taken, scope["headers"])

    async def _by_django(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let Django answer, in a task of its own.

        Cancelled, it leaves tasks behind that nobody looks after (Django 5.2, ASGIHandler.handle). So it isn't when the
        server ends and this took too long: what still runs then ends with the event loop.
        """
        answering = asyncio.ensure_future(self._fallback(scope, receive, send))
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(answering)

    async def _stream(self, response: StreamingHttpResponse, send: Send) -> None:
        """The body, piece by piece, each when the server has taken the one before. Without its end it is broken off."""
        try:
            async for piece in response:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except (ClientHungUp, asyncio.CancelledError):  # or the server ends, and this took too long
            return
        except Exception:
            logger.exception("unexpected error in the middle of an answer")
            return
        await send({"type": "http.response.body", "body": b""})
