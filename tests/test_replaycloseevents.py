"""`replaycloseevents`: what was given up is told again; nothing else is touched."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils.timezone import now

from tests.operators import Registry, manage

FAILED: dict[str, Any] = {
    "code": 1006,
    "reason": "node_lost",
    "attempts": 9,
    "gave_up": True,
    "last_error": "close: status 500\x1b[m",
}


@pytest.fixture
async def registry(tmp_path: Path) -> Registry:
    """A live session, one whose end is being told, and two whose end was given up."""
    registry = await Registry.embedded(tmp_path)
    one, two = await registry.node("web1"), await registry.node("web2")
    await registry.session("live", one)
    await registry.session("pending", one, ended_at=now(), code=1000, reason="client", attempts=3)
    await registry.session("new", one, ended_at=now() - timedelta(hours=1.5), **FAILED)
    await registry.session("old", two, ended_at=now() - timedelta(hours=2), **FAILED)
    return registry


async def failed(registry: Registry) -> list[str]:
    return [row.key for row in await registry.rows(gave_up=True)]


async def test_only_look(registry: Registry) -> None:
    done = await manage("replaycloseevents", "--all", "--dry-run", env=registry.env)
    assert [line.split() for line in done.lines] == [
        ["KEY", "ENDED", "CODE", "REASON", "ATTEMPTS", "LAST", "ERROR"],
        ["old", "2h00m", "1006", "node_lost", "9", "close:", "status", r"500\x1b[m"],
        ["new", "1h30m", "1006", "node_lost", "9", "close:", "status", r"500\x1b[m"],
    ]
    done = await manage("replaycloseevents", "--node", "web2", "--dry-run", "--json", env=registry.env)
    (record,) = map(json.loads, done.lines)
    assert (record["key"], record["attempts"], record["reason"]) == ("old", 9, "node_lost")
    assert await failed(registry) == ["new", "old"]


async def test_by_key(registry: Registry) -> None:
    done = await manage("replaycloseevents", "new", env=registry.env)
    assert (done.status, done.output) == (0, "to be told again: 1 close event\n")
    assert await failed(registry) == ["old"]
    (row,) = await registry.rows(key="new")
    assert (row.attempts, row.code, row.reason) == (0, 1006, "node_lost")
    done = await manage("replaycloseevents", "old", "pending", "live", "nobody", env=registry.env)
    assert (done.status, done.output) == (3, "to be told again: 1 close event\n")
    assert done.errors.splitlines() == [
        f"{key}: no close event of it was given up" for key in ("live", "nobody", "pending")
    ]
    (row,) = await registry.rows(key="pending")
    assert row.attempts == 3


async def test_by_filter(registry: Registry) -> None:
    done = await manage("replaycloseevents", "--older-than", "100m", env=registry.env)
    assert done.status == 1
    assert "Tell the backend again of 1 end?" in done.errors
    done = await manage("replaycloseevents", "--older-than", "100m", "--no-input", env=registry.env)
    assert done.output == "to be told again: 1 close event\n"
    assert await failed(registry) == ["new"]
    done = await manage("replaycloseevents", "--all", "--no-input", env=registry.env)
    assert not await failed(registry)


async def test_nothing_named(registry: Registry) -> None:
    done = await manage("replaycloseevents", env=registry.env)
    assert done.status == 1
    assert "expected keys, or --all or filters, found neither" in done.errors
