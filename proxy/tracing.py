"""Trace context (W3C Trace Context) of handshakes, for the callbacks that follow from them: docs/tracing.md.

`consumers` says when a connection begins and ends, `callbacks` asks what to send. Off, both cost a comparison. `spans`
is the same with spans of OpenTelemetry.
"""

import contextlib
import importlib
import re
from collections.abc import Iterator
from functools import cache

from proxy import conf
from proxy.forwarding import TextHeaders
from proxy.protocol import Headers, header_values

# Section 3.2.2: version, trace-id, parent-id, flags; neither id may be all zeros. Later versions may have more fields.
_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?")
_MAX_PARENT = 256  # characters
_MAX_STATE = 512  # characters, section 3.3.1.5
STOP_LIMIT = 0.75  # seconds at the end of the process for spans that aren't sent yet


def context_of(headers: Headers) -> TextHeaders:
    """The traceparent and tracestate of a request, or nothing if there is no valid traceparent (section 4.3)."""
    parents = header_values(headers, b"traceparent")
    if len(parents) != 1:
        return []
    parent = parents[0].decode("latin-1")
    if len(parent) > _MAX_PARENT or not _PARENT.fullmatch(parent) or (parent[:2] == "00" and len(parent) != 55):
        return []
    state = ",".join(value.decode("latin-1") for value in header_values(headers, b"tracestate"))
    fits = 0 < len(state) <= _MAX_STATE and state.isascii() and state.isprintable()
    return [("traceparent", parent), *([("tracestate", state)] if fits else ())]


class Traced:
    """One callback: `headers` go with it, and `answered` hears the status."""

    def __init__(self, headers: TextHeaders) -> None:
        self.headers = headers

    def answered(self, status: int) -> None:
        """There is an answer."""


class Tracer:
    """Passes the client's context on as it is, as one does who doesn't take part in a trace (section 3.1)."""

    def __init__(self) -> None:
        self._contexts: dict[str, TextHeaders] = {}
        """Of each connection whose client has sent one."""

    @contextlib.contextmanager
    def connection(self, connection: str, headers: Headers) -> Iterator[None]:
        """From a handshake with these headers to the end of what becomes of it."""
        if context := context_of(headers):
            self._contexts[connection] = context
        try:
            yield
        finally:
            self._contexts.pop(connection, None)

    @contextlib.contextmanager
    def callback(self, kind: str, connection: str) -> Iterator[Traced]:
        """Around one callback for this connection."""
        yield Traced(self._contexts.get(connection, []))

    async def stop(self) -> None:
        """The process ends: let go what is still here, if that doesn't take long."""


@cache
def tracer() -> Tracer | None:
    """This process's, made when it is first needed, for threads don't survive a fork; None: tracing is off."""
    mode = conf.options().tracing
    if mode == "off":
        return None
    if mode == "pass":
        return Tracer()
    found: Tracer = importlib.import_module("proxy.spans").Spans()
    return found


def connection(name: str, headers: Headers) -> contextlib.AbstractContextManager[None]:
    """Around a connection, from its handshake on."""
    found = tracer()
    return found.connection(name, headers) if found else _OFF


_OFF = contextlib.nullcontext()
