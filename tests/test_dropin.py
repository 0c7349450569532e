"""The drop-in claim: what kuiperbelt answered to each request of tests/dropin.py, as recorded, and what we answer."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests import dropin
from tests.servers import ROOT

GUIDE = (ROOT / "docs/howto-kuiperbelt.md").read_text()


async def test_every_request(tmp_path: Path) -> None:
    """The same, or different in just the parts that the guide says."""
    judged = dropin.judged(json.loads(dropin.RECORDED.read_text()), await dropin.both("here", tmp_path))
    assert not [line for line in judged if not line[2]]
    assert len(judged) == len(dropin.ALL) + 1 > 60


@pytest.mark.parametrize("why", sorted({row.why for row in dropin.ALL if row.why}))
def test_each_difference_is_in_the_guide(why: str) -> None:
    differences = GUIDE[GUIDE.index("## What differs, on purpose") :]
    assert re.search(rf"^\| {re.escape(why)} \|", differences, re.MULTILINE)
