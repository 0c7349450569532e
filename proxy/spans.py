"""A span of OpenTelemetry for each callback. Imported only with EKBO_TRACING=spans (requirements-tracing.txt).

Where spans go, and how many, is said by the standard variables OTEL_*, which the library reads itself: docs/tracing.md.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from threading import Thread

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import proxy
from proxy.forwarding import TextHeaders
from proxy.protocol import Headers
from proxy.tracing import STOP_LIMIT, Traced, Tracer, context_of

_propagator = TraceContextTextMapPropagator()


class _TracedSpan(Traced):
    def __init__(self, headers: TextHeaders, span: Span) -> None:
        super().__init__(headers)
        self._span = span

    def answered(self, status: int) -> None:
        self._span.set_attribute("http.response.status_code", status)
        if status >= 400:
            self._span.set_status(StatusCode.ERROR)


class Spans(Tracer):
    """Takes part: a callback's span is a child of the client's, or of the connection's first one."""

    def __init__(self) -> None:
        super().__init__()
        self._parents: dict[str, Context | None] = {}
        """Of each connection; None: it has no span yet."""
        ours = Resource({SERVICE_NAME: "kuiperbelt", SERVICE_VERSION: proxy.__version__})
        # At exit the library would wait for up to 30 s for a collector that doesn't answer.
        self._provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("kuiperbelt", proxy.__version__)

    @contextlib.contextmanager
    def connection(self, connection: str, headers: Headers) -> Iterator[None]:
        context = context_of(headers)
        self._parents[connection] = _propagator.extract(dict(context)) if context else None
        try:
            yield
        finally:
            del self._parents[connection]

    @contextlib.contextmanager
    def callback(self, kind: str, connection: str) -> Iterator[Traced]:
        attributes = {"kuiperbelt.callback": kind, "kuiperbelt.connection": connection}
        parent = self._parents.get(connection)
        with self._tracer.start_as_current_span(
            f"callback {kind}", parent or Context(), SpanKind.CLIENT, attributes, record_exception=False
        ) as span:
            if parent is None and connection in self._parents:
                self._parents[connection] = set_span_in_context(span, Context())
            headers = {"tracestate": ""}  # none, unless there is one
            _propagator.inject(headers, set_span_in_context(span, Context()))
            yield _TracedSpan([*headers.items()], span)

    async def stop(self) -> None:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop is closed: it took too long
                loop.call_soon_threadsafe(done.set)

        Thread(target=shut_down, name="spans", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_LIMIT):
                await done.wait()
