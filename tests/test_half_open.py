"""Half-open TCP: clients whose link goes down are given up in time, and the backend is told of each once."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import pytest

from tests.evidence import Evidence, Figures
from tests.half_open import CLIENTS, LIMIT
from tests.servers import ROOT

INTERVAL = float(os.environ.get("HALF_OPEN_INTERVAL", "2"))  # seconds between pings; the proxy's own is 20
PROMISE = 45.0 if INTERVAL > 10 else 4 * INTERVAL  # seconds


@pytest.mark.timeout(2 * LIMIT + 30)
async def test_half_open(evidence: Evidence) -> None:
    """In a network namespace: as root or, where the system lets users have some, in one of the user's."""
    namespace = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
    process = await asyncio.create_subprocess_exec(
        *namespace,
        *(sys.executable, "-m", "tests.half_open"),
        cwd=ROOT,
        env=os.environ | {"PING_INTERVAL": str(INTERVAL)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    found = json.loads(output)
    moments = [*found["idle"], *found["pushed"]]
    events = 2 * CLIENTS
    evidence(Figures(1, events, events - found["sessions"], len(moments) - found["sessions"], max(moments, default=0)))
    assert found["before"] == 0
    assert (len(found["idle"]), len(found["pushed"]), found["sessions"]) == (CLIENTS, CLIENTS, events)
    assert found["reasons"] == ["lost"]
    assert found["connections"] == 0
    assert max(moments) < PROMISE
