"""The garbage collector's settings, in a process of their own."""

import subprocess
import sys

SCRIPT = """
import gc
from proxy.garbage import tune_garbage_collector
tune_garbage_collector()
print(gc.get_threshold(), gc.get_freeze_count())
"""


def test_what_is_there_at_start_is_frozen_and_collections_are_rarer() -> None:
    output = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    thresholds, frozen = output.strip().rsplit(" ", 1)
    assert thresholds == "(20000, 20, 50)"
    assert int(frozen) > 1000
