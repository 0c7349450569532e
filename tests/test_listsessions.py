"""`listsessions`: the table and JSON lines, filters, hostile text, many rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from django.utils.timezone import now

from tests.operators import Registry, environment, manage
from tests.servers import ROOT

FEWER, MANY = 10_000, int(os.environ.get("MANY_SESSIONS", "40000"))
USAGE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_maxrss, used.ru_utime + used.ru_stime)
"""


@pytest.fixture(scope="module")
async def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Three sessions at two nodes, and one that has ended."""
    registry = await Registry.embedded(tmp_path_factory.mktemp("registry"))
    one, two = await registry.node("web1"), await registry.node("web2", "web2:9180")
    await registry.session("bob", one, 30, address="192.0.2.7")
    await registry.session("eve", one, 7200, user_agent="evil\x1b[2J\r\nbrowser\u202e")
    await registry.session("al", two, 90000, transport="webtransport")
    await registry.session("gone", one, ended_at=now(), code=1000, reason="client")
    return registry


async def listed(registry: Registry, *arguments: str) -> list[str]:
    """The keys that are listed."""
    done = await manage("listsessions", "--json", *arguments, env=registry.env)
    assert done.status == 0, done.errors
    return [json.loads(line)["key"] for line in done.lines]


async def test_the_table(registry: Registry) -> None:
    """The oldest first, and nothing in it that moves a terminal's cursor."""
    done = await manage("listsessions", env=registry.env)
    assert done.status == 0
    title, *rows = done.lines
    assert title.split() == ["KEY", "ADDRESS", "NODE", "TRANSPORT", "CONNECTED", "PATH", "USER", "AGENT"]
    assert [row.split()[:6] for row in rows] == [
        ["al", "192.0.2.1", "web2", "webtransport", "1d01h", "/connect"],
        ["eve", "192.0.2.1", "web1", "websocket", "2h00m", "/connect"],
        ["bob", "192.0.2.7", "web1", "websocket", rows[2].split()[4], "/connect"],
    ]
    assert rows[1].endswith(r"evil\x1b[2J\r\nbrowser\u202e")
    assert done.errors == "3 sessions\n"


async def test_json_lines(registry: Registry) -> None:
    done = await manage("listsessions", "--json", "eve", env=registry.env)
    (record,) = map(json.loads, done.lines)
    uuid.UUID(record.pop("connection"))
    assert record.pop("connected_at").endswith("Z")
    assert record == {
        "key": "eve",
        "address": "192.0.2.1",
        "node": "web1",
        "transport": "websocket",
        "path": "/connect",
        "user_agent": "evil\x1b[2J\r\nbrowser\u202e",
        "subprotocol": "",
        "endpoint": "web1:9180",
        "query": "",
    }
    assert done.errors == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), ["al", "eve", "bob"]),
        (("bob", "al", "gone", "nobody"), ["al", "bob"]),
        (("--node", "web1"), ["eve", "bob"]),
        (("--node", "web1", "--older-than", "1h30m"), ["eve"]),
        (("--older-than", "1d"), None),
        (("--older-than", "24h"), ["al"]),
        (("--transport", "webtransport"), ["al"]),
        (("--address", "::ffff:192.0.2.7"), ["bob"]),
        (("--address", "192.0.2.7", "eve"), []),
    ],
)
async def test_filters(registry: Registry, arguments: tuple[str, ...], expected: list[str] | None) -> None:
    if expected is None:
        done = await manage("listsessions", *arguments, env=registry.env)
        assert done.status == 2
        assert "expected a duration like 0, 500ms, 10s or 1m30s, found '1d'" in done.errors
    else:
        assert await listed(registry, *arguments) == expected


async def many_listed(registry: Registry) -> None:
    """10,000 rows take at most 2 s, of a processor that may be shared; several times as many take no more memory."""
    node = await registry.node()
    peaks: list[int] = []
    for rows in (FEWER, MANY):
        already = FEWER if peaks else 0
        await registry.sessions([f"session-{number}" for number in range(already, rows)], node)
        done = subprocess.run(  # noqa: ASYNC221
            [sys.executable, "-c", USAGE, sys.executable, "manage.py", "listsessions"],
            cwd=ROOT, env=environment(registry.env), capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stderr == f"{rows:,} sessions\n"
        peak, seconds = done.stdout.split()
        peaks.append(int(peak))
        assert rows == MANY or float(seconds) < 2.0
    assert peaks[1] < peaks[0] * 1.05


@pytest.mark.timeout(120)
async def test_many_rows(tmp_path: Path) -> None:
    await many_listed(await Registry.embedded(tmp_path))


async def test_a_reader_that_has_seen_enough(registry: Registry) -> None:
    line = f"set -o pipefail; {sys.executable} manage.py listsessions | head -1"
    node = await registry.node("web3")
    await registry.sessions([f"piped-{number}" for number in range(5000)], node)
    done = subprocess.run(  # noqa: ASYNC221
        ["bash", "-c", line], cwd=ROOT, env=environment(registry.env), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
