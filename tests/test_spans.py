"""Spans, as a collector gets them from a real server: OTLP over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.backend import Answer, Backend
from tests.clients import RawWebSocket
from tests.redis_servers import eventually
from tests.servers import ROOT, Servers, free_port
from tests.test_tracing import KINDS, PARENT, STATE

pytestmark = pytest.mark.usefixtures("clean_logs")


class Collector:
    """Takes spans as a collector does."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: set[tuple[str, str]] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                found = ExportTraceServiceRequest.FromString(body)
                for group in found.resource_spans:
                    outer.resources |= {(each.key, each.value.string_value) for each in group.resource.attributes}
                    outer.spans += [span for scope in group.scope_spans for span in scope.spans]
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever, daemon=True)
    thread.start()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()
    thread.join()


def attributes(span: Span) -> dict[str, str | int]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


async def talk(servers: Servers, backend: Backend, env: dict[str, str], key: str, *headers: tuple[str, str]) -> None:
    """A connection with each callback; the receive callback answers 500."""
    backend.on("/receive", key, Answer(status=500))
    server = await servers.get("workers", env | {"EKBO_TRACING": "spans", "OTEL_BSP_SCHEDULE_DELAY": "100"})
    async with RawWebSocket.open(server) as raw:
        assert (await raw.handshake(f"/connect?key={key}&token=hunter2", headers)).status == 101
        await raw.write(b"\x81\x85\0\0\0\0hello")
        await backend.wait("/receive", key)
    await backend.wait("/close", key)


async def test_a_span_for_each_callback(
    servers: Servers, backend: Backend, collector: Collector, fresh: Callable[[str], str]
) -> None:
    """From workers: the thread that sends them begins after the fork."""
    host, port = collector.server.server_address[:2]
    env = servers.cluster_env() | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_SERVICE_NAME": "chat",
    }
    assert host
    for given in ((("traceparent", PARENT), ("tracestate", STATE)), ()):
        key = fresh("s")
        await talk(servers, backend, env, key, *given)
        requests = {kind: backend.seen(f"/{kind}", key)[0] for kind in KINDS}
        connection = requests["connect"].one("X-Kuiperbelt-Connection")

        def spans(connection: str | None = connection) -> dict[str, Span]:
            ours = [span for span in collector.spans if attributes(span)["kuiperbelt.connection"] == connection]
            return {str(attributes(span)["kuiperbelt.callback"]): span for span in ours}

        async def all_there() -> bool:
            return len(spans()) == 4

        await eventually(all_there, "four spans")
        found = spans()
        trace = PARENT.split("-")[1] if given else found["connect"].trace_id.hex()
        first = PARENT.split("-")[2] if given else found["connect"].span_id.hex()
        for kind, span in found.items():
            assert (span.name, span.kind, span.trace_id.hex()) == (f"callback {kind}", Span.SPAN_KIND_CLIENT, trace)
            assert span.parent_span_id.hex() == ("" if kind == "connect" and not given else first)
            parent = requests[kind].one("traceparent") or ""
            # Of a new trace the flags also say that its id is random (level 2 of the specification).
            assert re.fullmatch(rf"00-{trace}-{span.span_id.hex()}-0[13]", parent)
            assert requests[kind].one("tracestate") == (STATE if given else None)
            assert attributes(span)["http.response.status_code"] == (500 if kind == "receive" else 200)
            assert (span.status.code == Status.STATUS_CODE_ERROR) == (kind == "receive")
            assert not {"hunter2", key, "hello"} & {str(value) for value in attributes(span).values()}
    assert ("service.name", "chat") in collector.resources


async def test_a_collector_that_is_not_there_delays_nothing(
    servers: Servers, backend: Backend, fresh: Callable[[str], str]
) -> None:
    env = servers.cluster_env() | {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    async with asyncio.timeout(20):
        for _ in range(3):
            await talk(servers, backend, env, fresh("s"))
        server = await servers.get("workers", env | {"EKBO_TRACING": "spans", "OTEL_BSP_SCHEDULE_DELAY": "100"})
        with contextlib.suppress(ProcessLookupError):
            assert await server.stop() == 0


async def test_without_it_the_library_is_not_loaded() -> None:
    """redis-py loads parts of it by itself where it is installed."""
    code = (
        "import sys, kbproject.asgi; names = 'opentelemetry.sdk.trace', 'opentelemetry.exporter', 'proxy.spans'; "
        "print([name for name in sys.modules if name.startswith(names)])"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        cwd=ROOT,
        env={"EKBO_CONNECT_CALLBACK_URL": "http://127.0.0.1:1/"},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert output == b"[]\n"
