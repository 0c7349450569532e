"""What is written about a session. How it gets there: test_journal, test_store."""

from dataclasses import FrozenInstanceError

import pytest

from proxy.changes import Change


def test_a_change_says_nothing_by_default() -> None:
    change = Change("a-connection")
    assert (change.facts, change.ended, change.attempt, change.done) == (None, None, None, False)


def test_nobody_changes_a_change_that_waits_to_be_written() -> None:
    with pytest.raises(FrozenInstanceError):
        Change("a-connection").done = True  # type: ignore[misc]
