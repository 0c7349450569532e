"""Runs the Autobahn cases of sections 1 to 7 against the URL of a server that echoes, and prints the results as JSON.

A process of its own (`python -m tests.autobahn_cases URL`), because kosoku puts modules called autobahn in the place of
the real ones, which daphne needs.
"""

from __future__ import annotations

import asyncio
import json
import sys

from kosoku import FailureError, run_fuzzingclient

SECTIONS = [f"{section}.*" for section in range(1, 8)]
CONCURRENCY = 8


async def run(url: str) -> dict[str, str]:
    """For each case by its id: what was wrong, or nothing."""
    try:
        results = await run_fuzzingclient(url, SECTIONS, concurrency=CONCURRENCY)
    except FailureError as failure:
        results = failure.results
    return {one.case_id: "" if one.passed else f"{one.result} {one.result_close}" for one in results}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(sys.argv[1]))))
