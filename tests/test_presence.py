"""Who else is there, from what was heard."""

import pytest

from proxy import presence
from proxy.presence import LIFETIME, Presence


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(presence, "monotonic", lambda: now[0])
    return now


def test_who_was_heard_of_counts_until_it_leaves_or_is_silent_for_long(clock: list[float]) -> None:
    known = Presence(b"me")
    assert known.hear(b"a", left=False)
    assert known.hear(b"b", left=False)
    assert not known.hear(b"me", left=False)
    assert known.others() == [b"a", b"b"]
    assert not known.hear(b"b", left=True)
    clock[0] += LIFETIME - 1
    assert known.others() == [b"a"]
    assert not known.hear(b"a", left=False)
    clock[0] += LIFETIME - 1
    assert known.others() == [b"a"]
    clock[0] += 2
    assert known.others() == []
    assert known.hear(b"a", left=False)


def test_ones_own_absence_says_nothing_about_others(clock: list[float]) -> None:
    known = Presence(b"me")
    known.hear(b"a", left=False)
    clock[0] += 10 * LIFETIME
    known.connected()
    assert known.others() == [b"a"]


def test_there_is_an_end_of_them(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever can write to Redis may invent any number."""
    monkeypatch.setattr(presence, "MAX_PROCESSES", 2)
    known = Presence(b"me")
    assert [known.hear(name, left=False) for name in (b"a", b"b", b"c", b"b")] == [True, True, False, False]
    assert known.others() == [b"a", b"b"]
    known.hear(b"a", left=True)
    assert known.hear(b"c", left=False)
    clock[0] += LIFETIME + 1
    assert known.hear(b"d", left=False)
    assert known.others() == [b"d"]


def test_who_only_leaves_was_never_there() -> None:
    known = Presence(b"me")
    assert not known.hear(b"a", left=True)
    assert known.others() == []
