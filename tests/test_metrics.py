"""GET /metrics, read as Prometheus does: what it counts, who may read it, docs/metrics.md and the Grafana dashboard."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

import proxy
from proxy.metrics import Collector, family
from proxy.stats import Stats
from tests.asgi import ask
from tests.backend import Answer, Backend, welcome
from tests.clients import RawWebSocket, client, close, receive, request, send
from tests.servers import ALONE, Server, Servers

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs/metrics.md").read_text()
DASHBOARD = json.loads((ROOT / "examples/grafana/kuiperbelt.json").read_text())
PERIOD = 1.0  # seconds between two looks of `sampler`

pytestmark = pytest.mark.usefixtures("clean_logs")

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Metrics:
    """One answer of /metrics."""

    def __init__(self, families: list[Metric]) -> None:
        self.families = {family.name: family for family in families}
        self.samples: Samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        return self.samples[f"kuiperbelt_{name}", frozenset(labels.items())]

    def labels(self) -> dict[str, set[str]]:
        """Of each sample's name."""
        return {name: {label for label, _ in labels} for name, labels in self.samples}


async def read(server: Server) -> Metrics:
    response = await request(server, "GET", "/metrics")
    assert response.status == 200
    assert (response.one("Content-Type") or "").startswith("text/plain; version=")
    return Metrics(list(parse(response.body.decode())))


async def counted(server: Server, name: str, value: float, **labels: str) -> Metrics:
    """Wait until a number is as expected."""
    for _ in range(100):
        found = await read(server)
        if found(name, **labels) == value:
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"{name}{labels}: expected {value}, found {found(name, **labels)}")


def difference(after: Metrics, before: Metrics, *names: str) -> dict[str, float]:
    """What grew of these counters, by their labels' values in the order of the labels."""
    return {
        " ".join(value for _, value in sorted(labels)): after.samples[name, labels] - before.samples[name, labels]
        for name, labels in after.samples
        if name.removeprefix("kuiperbelt_") in names and after.samples[name, labels] != before.samples[name, labels]
    }


@pytest.fixture(scope="module")
async def nodes(servers: Servers) -> AsyncIterator[Mapping[str, Server]]:
    """A node of each server, and one of two workers with Redis."""
    env = {"EKBO_MESSAGE_RATE": "3", "EKBO_ORIGIN_POLICY": "same_origin", "EKBO_MAX_CONNECTIONS": "3"}
    started = await asyncio.gather(
        *(servers.start(kind, env) for kind in ALONE), servers.start("workers", servers.cluster_env())
    )
    yield dict(zip((*ALONE, "workers"), started, strict=True))
    await asyncio.gather(*(server.stop() for server in started))


@pytest.mark.parametrize("kind", ALONE)
async def test_what_becomes_of_handshakes_and_sessions(
    nodes: Mapping[str, Server], kind: str, backend: Backend, fresh: Callable[[str], str]
) -> None:
    server = nodes[kind]
    before = await read(server)
    keys = {name: fresh("m") for name in ("open", "no", "key", "rude", "fast", "full")}
    backend.on("/connect", keys["no"], Answer(status=401))
    backend.on("/connect", keys["key"], Answer())
    targets = {"/connect?key=" + keys["no"]: (), "/connect?key=" + keys["key"]: (), "/other": ()}
    for target in targets:
        async with RawWebSocket.open(server) as raw:
            assert (await raw.handshake(target)).status >= 400
    async with RawWebSocket.open(server) as raw:
        headers = [("Origin", "https://evil.example")]
        assert (await raw.handshake(f"/connect?key={keys['rude']}", headers)).status == 403
    assert (await request(server, "GET", "/connect")).status == 426
    async with client(server, keys["open"]) as one, client(server, keys["rude"]), client(server, keys["fast"]) as fast:
        await counted(server, "connections", 3)
        async with RawWebSocket.open(server) as raw:
            assert (await raw.handshake(f"/connect?key={keys['full']}")).status in (403, 503)
        await one.send("hello")
        await backend.wait("/receive", keys["open"])
        for number in range(4):
            await fast.send(str(number))
        await fast.wait_closed()
        await close(server, keys["rude"])
    told = before("callbacks_total", kind="close", result="ok") + 2
    after = await counted(server, "callbacks_total", told, kind="close", result="ok")
    assert difference(after, before, "connects_total") == {
        "open": 3,
        "backend_refused": 1,
        "backend_failed": 1,
        "not_found": 1,
        "origin": 1,
        "bad_request": 1,
        "max_connections": 1,
    }
    assert difference(after, before, "handshakes_total") == {"": 9}
    assert difference(after, before, "session_ends_total") == {"client": 1, "backend": 1, "error": 1}
    assert difference(after, before, "received_drops_total") == {"rate": 1}
    assert after("received_messages_total") - before("received_messages_total") == 4
    callbacks = {"connect ok": 4, "connect refused": 1, "establish ok": 3, "receive ok": 4, "close ok": 2}
    assert difference(after, before, "callbacks_total") == callbacks
    assert difference(after, before, "callback_duration_seconds_count") == {
        "connect": 5,
        "establish": 3,
        "receive": 4,
        "close": 2,
    }


@pytest.mark.parametrize("kind", ALONE)
async def test_pushes_by_verb_lane_and_result(nodes: Mapping[str, Server], kind: str, key: str) -> None:
    """The quick lane takes whole requests, the view those whose body comes in chunks, and all of daphne's."""
    server, lane = nodes[kind], "push_lane" if kind == "uvicorn" else "view"
    async with client(server, key) as connection:
        before = await read(server)
        await send(server, f"{key},{key},nobody")
        lines = [{"session": key, "body": "x"}, {"sessions": ["nobody", key], "close": True}, {"session": "a b"}]
        body = "\n".join(map(json.dumps, lines)).encode()
        assert (await request(server, "POST", "/batch", body=body)).status == 200
        await close(server, f"{key},{key}")
        assert (await request(server, "POST", "/send")).status == 400
        assert (await request(server, "GET", "/send")).status == 405
        assert [await receive(connection) for _ in range(3)]
        after = await read(server)
    assert difference(after, before, "pushes_total") == {
        f"{lane} ok send": 2,
        f"{lane} not_found send": 1,
        "batch ok send": 1,
        "batch ok close": 1,
        "batch not_found close": 1,
        f"{lane} not_found close": 1,
    }
    assert difference(after, before, "api_refusals_total") == {"400": 2, "405": 1}


async def test_strict_broadcast_refuses_those_that_are_there(servers: Servers, key: str) -> None:
    server = await servers.get("uvicorn", {"EKBO_STRICT_BROADCAST_MODE_SWITCH": "true"})
    async with client(server, key):
        before = await read(server)
        await send(server, f"{key},nobody")
        after = await read(server)
    assert difference(after, before, "pushes_total") == {
        "push_lane refused send": 1,
        "push_lane not_found send": 1,
    }


async def test_latency_falls_into_its_bucket(
    nodes: Mapping[str, Server], backend: Backend, fresh: Callable[[str], str]
) -> None:
    server, slow = nodes["uvicorn"], fresh("slow")
    backend.on("/connect", slow, lambda _: Answer(headers=welcome(slow).headers, delay=0.3))
    before = await read(server)
    async with client(server, slow):
        after = await read(server)
    grown = {
        bound: after("callback_duration_seconds_bucket", kind="connect", le=bound)
        - before("callback_duration_seconds_bucket", kind="connect", le=bound)
        for bound in ("0.25", "10.0", "+Inf")
    }
    assert grown == {"0.25": 0, "10.0": 1, "+Inf": 1}
    took = after("callback_duration_seconds_sum", kind="connect") - before(
        "callback_duration_seconds_sum", kind="connect"
    )
    assert 0.3 <= took < 3


async def test_all_workers_are_in_one_answer_and_no_counter_goes_back(
    nodes: Mapping[str, Server], fresh: Callable[[str], str]
) -> None:
    server = nodes["workers"]
    await counted(server, "workers", 2)
    await counted(server, "redis_connected", 2)
    before = await read(server)
    keys = [fresh("w") for _ in range(8)]
    for key in keys:
        async with client(server, key):
            await send(server, key)
    after = await counted(server, "connections", 0)
    assert after("connects_total", result="open") - before("connects_total", result="open") == 8
    assert after("redis_disconnected") == after("registry_failing") == 0
    os.kill(worker_pids(server)[0], signal.SIGKILL)
    deadline = time.monotonic() + 10
    while len(worker_pids(server)) < 3:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    killed = await counted(server, "workers", 2)
    for name, found in after.families.items():
        if found.type == "counter":
            for sample in found.samples:
                labels = frozenset(sample.labels.items())
                assert killed.samples[sample.name, labels] >= sample.value, name
    for _ in range(10):  # whichever worker answers
        answer = await read(server)
        assert answer("connects_total", result="open") == after("connects_total", result="open")
        assert answer("worker_deaths_total") == 1


def worker_pids(server: Server) -> list[int]:
    """Of all that have ever served."""
    return [int(pid) for pid in re.findall(r"worker \d \(pid (\d+)\) listening", server.output())]


async def test_what_is_only_seen_by_looking(nodes: Mapping[str, Server]) -> None:
    for server in nodes.values():
        first = await read(server)
        later = await first_later(server, first)
        assert later("event_loop_lag_seconds_sum") >= first("event_loop_lag_seconds_sum")
        assert later("registry_backlog_rows") == later("registry_lag_seconds") == 0
    found = await read(nodes["workers"])
    deadline = time.monotonic() + 12
    while not found("redis_round_trip_seconds_count"):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)
        found = await read(nodes["workers"])
    assert found("redis_round_trip_seconds_sum") / found("redis_round_trip_seconds_count") < 1


async def first_later(server: Server, first: Metrics) -> Metrics:
    """An answer after another look of `sampler`."""
    deadline = time.monotonic() + 10 * PERIOD
    while (found := await read(server))("event_loop_lag_seconds_count") == first("event_loop_lag_seconds_count"):
        assert time.monotonic() < deadline
        await asyncio.sleep(PERIOD / 10)
    return found


async def test_stats_and_metrics_say_the_same(nodes: Mapping[str, Server]) -> None:
    for server in nodes.values():
        stats = (await request(server, "GET", "/stats")).json()
        metrics = await read(server)
        names = [
            *("connections", "handshakes_total", "messages_total", "connect_errors_total", "message_errors_total"),
            "closing_connections",
        ]
        assert dict(zip(stats, map(metrics, names), strict=True)) == stats


async def test_open_metrics_for_who_asks(nodes: Mapping[str, Server]) -> None:
    wanted = [("Accept", "application/openmetrics-text; version=1.0.0")]
    response = await request(nodes["uvicorn"], "GET", "/metrics", wanted)
    assert (response.one("Content-Type") or "").startswith("application/openmetrics-text")
    found = Metrics(list(openmetrics(response.body.decode())))  # type: ignore[no-untyped-call]
    assert found("build_info", version=proxy.__version__, python=platform.python_version()) == 1


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=abc", "text/plain;version=1.x", "*", ";"])
async def test_any_accept_header_is_answered(nodes: Mapping[str, Server], accept: str) -> None:
    response = await request(nodes["uvicorn"], "GET", "/metrics", [("Accept", accept)])
    assert response.status == 200
    assert b"kuiperbelt_connections" in response.body


@pytest.mark.parametrize(
    ("peer", "headers", "status"),
    [
        ("127.0.0.1", [], 200),
        ("192.0.2.1", [], 403),
        ("127.0.0.1", [(b"x-forwarded-for", b"127.0.0.1")], 403),
        ("127.0.0.1", [(b"authorization", b"Bearer " + b"k" * 16)], 200),
    ],
)
async def test_who_may_read(peer: str, headers: list[tuple[bytes, bytes]], status: int) -> None:
    answer = await ask("GET", "/metrics", *headers, peer=peer)
    assert answer
    assert answer.status == status


def test_a_metric_of_each_kind() -> None:
    stats = Stats()
    stats.link_gap_ms = 1500
    stats.add(Stats.pushes["close", "view", "ok"])
    for seconds in (0.0005, 0.0006, 11.0):
        stats.observe(Stats.callback_seconds["close"], seconds)
    found = Metrics([family(numbers, stats.read()) for numbers in Stats.numbers])
    assert found("redis_gap_seconds_total") == 1.5
    assert found("pushes_total", verb="close", lane="view", result="ok") == 1
    buckets = {le: found("callback_duration_seconds_bucket", kind="close", le=le) for le in ("0.0005", "0.001", "10.0")}
    assert buckets == {"0.0005": 1, "0.001": 2, "10.0": 2}
    assert found("callback_duration_seconds_count", kind="close") == 3
    assert found("callback_duration_seconds_sum", kind="close") == pytest.approx(11.0011)


# What is written about them


def families() -> Iterator[Metric]:
    return Collector(Stats()).collect()


def test_the_table_has_every_metric() -> None:
    rows = re.findall(r"^\| `(kuiperbelt_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", DOCS, re.M)
    expected = []
    for found in families():
        labels = list(dict.fromkeys(label for sample in found.samples for label in sample.labels if label != "le"))
        name = f"{found.name}_total" if found.type == "counter" else found.name
        expected.append((name, found.type, ", ".join(f"`{label}`" for label in labels), found.documentation))
    assert rows == expected


def test_the_values_of_labels_are_explained() -> None:
    text = DOCS[DOCS.index("## What the labels say") : DOCS.index("## What to be woken for")]
    explained = set(re.findall(r"`([\w]+)`", text))
    for numbers in Stats.numbers:
        for values in numbers.places:
            assert {*numbers.labels, *values} <= explained


def test_names_are_as_prometheus_wants_them() -> None:
    for found in families():
        assert re.fullmatch(r"kuiperbelt_[a-z_]+", found.name)
        assert not found.name.endswith(("_total", "_count", "_sum", "_bucket", "_ms"))
        assert found.documentation


async def test_the_dashboard_asks_for_what_a_node_serves(nodes: Mapping[str, Server]) -> None:
    """Every name and label in it is there, and no metric is missing in it."""
    served = (await read(nodes["workers"])).labels()
    targets = [target for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    asked = set()
    for target in targets:
        names = set(re.findall(r"kuiperbelt_\w+", target["expr"]))
        assert names
        assert names <= set(served), target
        asked |= names
        used = {label for inside in re.findall(r"\bby \(([^)]*)\)", target["expr"]) for label in inside.split(", ")}
        used |= set(re.findall(r"(\w+)=~?\"", target["expr"])) | set(
            re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
        )
        for name in names:
            assert used <= served[name] | {"job", "instance"}, target
    parts = {f"{found.name}_{part}" for found in families() if found.type == "histogram" for part in ("count", "sum")}
    assert set(served) - parts == asked


def test_what_wakes_people_exists() -> None:
    names = set(re.findall(r"kuiperbelt_\w+", DOCS[DOCS.index("## What to be woken for") :]))
    assert names <= {f"{found.name}_total" if found.type == "counter" else found.name for found in families()}


def test_the_dashboard_can_be_imported() -> None:
    """Ids are unique, panels don't overlap, and each has the source that is chosen at import."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (panel["gridPos"]["x"] + dx, panel["gridPos"]["y"] + dy)
        for panel in panels
        for dx in range(panel["gridPos"]["w"])
        for dy in range(panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert all(x < 24 for x, _ in cells)
    assert {panel["datasource"]["uid"] for panel in panels if panel["type"] != "row"} == {"${datasource}"}
