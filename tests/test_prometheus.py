"""A real Prometheus reads a node of two workers, as docs/metrics.md says: the dashboard's queries have answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import shlex
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from tests.backend import Answer, Backend
from tests.clients import RawWebSocket, client, close, receive, request, send
from tests.operators import manage
from tests.redis_servers import eventually
from tests.servers import ROOT, Server, Servers, free_port

DOCS = (ROOT / "docs/metrics.md").read_text()
DASHBOARD = json.loads((ROOT / "examples/grafana/kuiperbelt.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
CHOSEN = {"$job": "kuiperbelt", "$instance": ".*", "$__rate_interval": "10s"}
"""What Grafana puts in: the variables, and the time over which it takes rates."""
EVENTFUL = {
    *("Live sessions", "Handshakes by result", "Ends by reason", "Pushes by result", "Frames", "Lost and refused"),
    *("Callbacks: 99th percentile", "Callbacks: median", "Callbacks by result"),
    *("Connections to Redis", "Event loop: lag, 99th percentile", "Workers", "Versions"),
}
"""Panels in which something is to be seen while clients come, talk and go; the others are of what goes wrong."""
PUSH_KEY = [("Authorization", "Bearer 0123456789abcdef")]

Series = list[dict[str, Any]]


@dataclass
class Prometheus:
    """A running one, and the node that it reads."""

    http: Server
    node: Server

    async def api(self, path: str, **parameters: str) -> Any:
        """What it answers; what it can't parse is an error."""
        response = await request(self.http, "GET", f"/api/v1/{path}?{urlencode(parameters)}")
        answer = response.json()
        assert answer["status"] == "success", answer
        return answer["data"]

    async def query(self, expression: str) -> Series:
        """The series of an expression as Grafana sends it, now."""
        for name, value in CHOSEN.items():
            expression = expression.replace(name, value)
        series: Series = (await self.api("query", query=expression))["result"]
        return series


def documented(target: str) -> dict[str, Any]:
    """The page's scrape_configs, for one node."""
    (text,) = re.findall(r"^```yaml\n(.*?)^```", DOCS, re.DOTALL | re.MULTILINE)
    config = dict(yaml.safe_load(text))
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    return config


@pytest.fixture(scope="module")
async def prometheus(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Prometheus]:
    env = {"EKBO_API_KEYS": "0123456789abcdef", "EKBO_API_PORT": str(free_port()), "EKBO_SECRET_KEY": "s" * 64}
    node = await servers.start("workers", servers.cluster_env() | env)
    (line,) = re.findall(r"manage\.py (maketoken .*)", DOCS)
    made = await manage(*shlex.split(line), env=node.env)
    assert made.status == 0, made.errors
    home = tmp_path_factory.mktemp("prometheus")
    (home / "kuiperbelt.token").write_text(made.output)
    config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}} | documented(node.api.host)
    (home / "prometheus.yml").write_text(yaml.safe_dump(config))
    port, log = free_port(), home / "log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            "prometheus", "--config.file=prometheus.yml", f"--web.listen-address=127.0.0.1:{port}",
            "--storage.tsdb.path=data",  # Debian's own default is a place for all
            cwd=home, stdout=output, stderr=output,
        )  # fmt: skip
    http = Server("prometheus", {}, port, log, process)

    async def answers() -> bool:
        assert process.returncode is None, log.read_text()
        return (await request(http, "GET", "/-/ready")).status == 200

    try:
        await eventually(answers, "Prometheus")
        yield Prometheus(http, node)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        await node.stop()


async def busy(node: Server, backend: Backend, fresh: Callable[[str], str]) -> None:
    """Clients come, are refused, talk, are pushed to and go, until this is cancelled."""
    refused = fresh("refused")
    backend.on("/connect", refused, Answer(status=401))
    async with client(node, fresh("stays")):
        while True:
            key = fresh("comes")
            async with client(node, key) as connection:
                await connection.send("hello")
                assert (await send(node, key, b"hello", *PUSH_KEY)).status == 200
                assert await receive(connection) == "hello"
                await close(node, f"{key},nobody", b"bye", *PUSH_KEY)
            async with client(node, key):
                pass
            async with RawWebSocket.open(node) as raw:
                assert (await raw.handshake(f"/connect?key={refused}")).status == 401
            assert (await request(node.api, "POST", "/send", PUSH_KEY)).status == 400
            await asyncio.sleep(0.05)


def numbers(series: Series) -> list[float]:
    return [float(each["value"][1]) for each in series]


async def test_every_panel_shows_something(
    prometheus: Prometheus, backend: Backend, fresh: Callable[[str], str]
) -> None:
    """And what happens is in the panel that is about it, under all the labels that its legend names."""
    missing: dict[str, str] = {}

    async def all_is_there() -> bool:
        missing.clear()
        for panel in PANELS:
            found = [(target, await prometheus.query(target["expr"])) for target in panel["targets"]]
            for target, series in found:
                if not series:
                    missing[panel["title"]] = f"no series: {target['expr']}"
                wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                assert all(wanted <= set(each["metric"]) for each in series), target
            if panel["title"] in EVENTFUL and not any(number > 0 for _, series in found for number in numbers(series)):
                missing[panel["title"]] = "all is 0"
        return not missing

    load = asyncio.create_task(busy(prometheus.node, backend, fresh))
    try:
        with contextlib.suppress(AssertionError):
            await eventually(all_is_there, "the dashboard", 20)
        assert not missing
        (alive,) = await prometheus.query("up")
        assert alive["value"][1] == "1"
        (live,) = await prometheus.query(
            next(each for each in PANELS if each["title"] == "Live sessions")["targets"][0]["expr"]
        )
        assert 1 <= float(live["value"][1]) <= 3
        assert live["metric"] == {"instance": prometheus.node.api.host}
        assert not load.done(), load
    finally:
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)


async def test_what_there_is_to_choose(prometheus: Prometheus) -> None:
    """The dashboard's variables: Grafana asks for the values of a label as this does."""
    for variable in DASHBOARD["templating"]["list"][1:]:
        matched = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
        assert matched
        expression, label = matched.groups()
        expression = expression.replace("$job", ".*")
        values = await prometheus.api(f"label/{label}/values", **{"match[]": expression})
        assert values == [{"job": "kuiperbelt", "instance": prometheus.node.api.host}[label]]


async def test_what_wakes_people_can_be_asked(prometheus: Prometheus) -> None:
    """Each condition of the page's table, as it stands there; none holds of a node that is well."""
    table = DOCS[DOCS.index("## What to be woken for") :]
    conditions = [
        code for line in re.findall(r"^\| (.*?) \|", table, re.MULTILINE) for code in re.findall(r"`(\S.*?)`", line)
    ]
    asked = [condition for condition in conditions if re.search(r"[><(]", condition)]
    assert len(asked) > 4
    for condition in asked:
        series = await prometheus.query(condition)
        if ">" in condition:
            assert not series, (condition, series)
        else:
            assert all(math.isfinite(number) for number in numbers(series)), condition
