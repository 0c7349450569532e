"""Python's garbage collector for a process that holds many long-lived connections."""

import gc

GC_THRESHOLDS = (20_000, 20, 50)  # objects, then younger collections, before each generation is collected


def tune_garbage_collector() -> None:
    """Keep the collector from walking through all of Django, and through all connections, again and again.

    It took a quarter of the time of a connect (docs/performance.md). What ends must cut its cycles itself, then: that
    which only a full collection frees is held for hours (tests/test_garbage.py).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
