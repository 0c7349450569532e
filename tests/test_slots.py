"""Numbers in shared memory, between processes of different versions. With real workers: test_reload_workers.py."""

from __future__ import annotations

import os

import pytest

from proxy import slots
from proxy.slots import GAUGE, WIDTH, WORDS
from proxy.stats import Stats

OLD = ["connects", f"live{GAUGE}", "gone"]
NEW = ["fresh", f"younger{GAUGE}", "connects", f"live{GAUGE}"]


@pytest.fixture
def memory() -> int:
    return slots.share(2)


def test_processes_of_one_version(memory: int) -> None:
    ours, theirs = slots.shared(memory, OLD), slots.shared(memory, OLD)
    mine = ours[0].take()
    mine[0] += 5
    mine[2] -= 1
    theirs[1].take()[0] = 2
    assert [slot.read() for slot in ours] == [slot.read() for slot in theirs] == [[5, 0, -1], [2, 0, 0]]


def test_another_version_reads_by_name(memory: int) -> None:
    old, new = slots.shared(memory, OLD), slots.shared(memory, NEW)
    old[0].take()[:] = memoryview(bytes(range(8)) * WIDTH).cast("q")
    numbers = old[0].read()
    assert new[0].read() == [0, 0, numbers[0], numbers[1]]
    new[1].take()[2] = 7
    assert old[1].read() == [7, 0, 0]


def test_a_successor_counts_on_and_others_see_no_moment_without(memory: int) -> None:
    old, new, other = (slots.shared(memory, lines) for lines in (OLD, NEW, OLD))
    numbers = old[0].take()
    numbers[0], numbers[1], numbers[2] = 3, 4, 5
    assert other[0].read() == [3, 4, 5]
    taken = new[0].take()
    assert new[0].read() == [0, 0, 3, 4]
    assert other[0].read() == [3, 4, 0]
    taken[2] += 1
    assert other[0].read()[0] == new[0].read()[2] == 4
    assert slots.shared(memory, OLD)[0].take()[:3].tolist() == [4, 4, 0]


def test_gauges_go_with_their_process_whatever_it_called_them(memory: int) -> None:
    old, new = slots.shared(memory, OLD), slots.shared(memory, NEW)
    old[0].take()
    taken = new[0].take()
    taken[0] = taken[1] = taken[2] = taken[3] = 1
    old[0].clear_gauges()
    assert new[0].read() == [1, 0, 1, 0]


def test_it_outlives_a_fork(memory: int) -> None:
    ours = slots.shared(memory, OLD)
    ours[0].take()
    if not (child := os.fork()):
        ours[1].take()[0] = 9
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert ours[1].read() == [9, 0, 0]


def test_what_has_no_room() -> None:
    with pytest.raises(ValueError, match=f"expected at most {WIDTH} numbers"):
        slots.alone([str(number) for number in range(WIDTH + 1)])
    with pytest.raises(ValueError, match=f"with {WORDS} bytes of words"):
        slots.alone(["x" * (WORDS + 1)])


def test_ours_have_room_for_twice_as_many_and_names_of_their_own() -> None:
    lines = [line for numbers in Stats.numbers for line in numbers.lines()]
    assert len(lines) == len({*lines}) == Stats.width < WIDTH / 2
    assert len("\n".join(lines)) < WORDS / 2
