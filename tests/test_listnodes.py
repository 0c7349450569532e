"""`listnodes`: the processes, and how they are."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.utils.timezone import now

from tests.operators import Registry, manage


@pytest.fixture(scope="module")
async def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A node in each state."""
    registry = await Registry.embedded(tmp_path_factory.mktemp("registry"))
    await registry.node("web1", worker=1, connections=5, total_connections=7, connect_errors=2, message_errors=1)
    await registry.node("web2", "/run/proxy.sock", heartbeat_at=now() - timedelta(minutes=2))
    await registry.node("web3", ended_at=now())
    await registry.node("web4", ended_at=now(), declared_dead=True)
    return registry


async def test_the_table(registry: Registry) -> None:
    done = await manage("listnodes", env=registry.env)
    assert done.status == 0
    title, *rows = [line.split() for line in done.lines]
    assert title[:5] == ["NODE", "PID", "WORKER", "API", "STATE"]
    assert [row[:6] for row in rows] == [
        ["web2", "7", "0", "/run/proxy.sock", "silent", "2h00m"],
        ["web1", "7", "1", "web1:9180", "alive", "2h00m"],
    ]
    assert rows[1][-4:] == ["5", "7", "0", "3"]


async def test_json_lines(registry: Registry) -> None:
    done = await manage("listnodes", "--json", "--all", env=registry.env)
    nodes = {node["name"]: node for node in map(json.loads, done.lines)}
    states = {name: node["state"] for name, node in nodes.items()}
    assert states == {"web1": "alive", "web2": "silent", "web3": "ended", "web4": "declared dead"}
    assert nodes["web1"]["ended_at"] is None
    assert nodes["web1"]["started_at"].endswith("Z")
    assert len(nodes["web1"]["id"]) == 36


async def test_the_limit_is_the_configured_one(registry: Registry) -> None:
    done = await manage("listnodes", env=registry.env | {"EKBO_NODE_TIMEOUT": "1h"})
    assert [line.split()[4] for line in done.lines[1:]] == ["alive", "alive"]
