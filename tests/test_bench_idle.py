"""What an idle node needs, as `python -m bench idle` prints it. No speed is asserted."""

import re
import subprocess
import sys

import pytest

from tests.servers import ROOT


def test_a_short_run() -> None:
    line = [sys.executable, "-m", "bench", "idle", "--connections", "20", "--seconds", "0.5", "--settle", "0.2"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "20 idle connections" in done.stdout
    grown = re.findall(
        r"\| registry (?:off|on) \| (-?\d+\.\d\d) KiB \| (-?\d+\.\d\d) KiB \| ([+-]\d+\.\d\d) %", done.stdout
    )
    assert len(grown) == 2
    for at_first, later, growth in (map(float, row) for row in grown):
        assert growth == pytest.approx(100 * (later - at_first) / at_first, abs=0.2)
    found = re.findall(r"\| (registry off|registry on|heartbeat and samples) \| (\d+\.\d\d) %", done.stdout)
    assert [name for name, _ in found] == ["registry off", "registry on", "heartbeat and samples"]
    off, on, cost = (float(value) for _, value in found)
    assert off >= 0 < on
    assert abs(cost - max(0.0, on - off)) < 0.02
