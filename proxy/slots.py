"""Memory that the processes of a node share: a slot of numbers for each, and what they mean. Part of `stats`.

Workers that were replaced (rolling) may be of another version, which has other numbers or has them in other places; so
each slot says in words what is where, and is read by these words.
"""

import mmap
import os
from collections.abc import Sequence

SIZE = 8  # bytes of one number
WIDTH = 1024  # numbers that there is room for
WORDS = 64 * 1024  # bytes for what they mean, a line for each; a gauge's ends with GAUGE
GAUGE = " gauge"
_HALF = WORDS + WIDTH * SIZE
SLOT = SIZE + 2 * _HALF  # bytes


class Slot:
    """One process's numbers, as this process sees them: in the places that `lines` have here.

    It has two halves, so that a process of another version can write its own while others read the one before it.
    """

    def __init__(self, memory: memoryview, lines: Sequence[str]) -> None:
        self._words = "\n".join(lines).encode()
        if len(lines) > WIDTH or len(self._words) > WORDS:
            raise ValueError(f"expected at most {WIDTH} numbers with {WORDS} bytes of words, found {len(lines)}")
        self._turn = memory[:SIZE].cast("q")
        self._halves = [memory[start : start + _HALF] for start in (SIZE, SIZE + _HALF)]
        self._lines = lines
        self._seen = -1
        self._places: list[int] | None = None
        self._numbers: memoryview

    def take(self) -> memoryview:
        """The numbers, for the only process that changes them; what was counted before stays."""
        found = self.read()
        if self._places is not None:
            other = self._halves[~self._turn[0] & 1]
            other[:WORDS] = self._words.ljust(WORDS, b"\0")
            numbers = other[WORDS:].cast("q")
            for place, number in enumerate(found):
                numbers[place] = number
            self._turn[0] += 1
            self.read()
        return self._numbers

    def read(self) -> list[int]:
        """All numbers; 0 for what the slot's process doesn't know."""
        if self._seen != self._turn[0]:
            self._seen = self._turn[0]
            half = self._halves[self._seen & 1]
            self._numbers = half[WORDS:].cast("q")
            self._places = self._translation(_words(half))
        if self._places is None:
            return self._numbers[: len(self._lines)].tolist()
        return [self._numbers[place] if place >= 0 else 0 for place in self._places]

    def _translation(self, words: bytes) -> list[int] | None:
        """For each of our places the slot's own, or -1; None: they are the same."""
        if words == self._words:
            return None
        theirs = {line: place for place, line in enumerate(words.decode().splitlines())}
        return [theirs.get(line, -1) for line in self._lines]

    def clear_gauges(self) -> None:
        """Its process is dead. Those of another version are cleared as well."""
        self.read()
        for place, line in enumerate(_words(self._halves[self._seen & 1]).decode().splitlines()):
            if line.endswith(GAUGE):
                self._numbers[place] = 0


def share(count: int) -> int:
    """A descriptor of memory for so many slots; processes that are forked have it, and those that are executed may."""
    descriptor = os.memfd_create("kuiperbelt-stats")
    os.ftruncate(descriptor, count * SLOT)
    return descriptor


def shared(descriptor: int, lines: Sequence[str]) -> list[Slot]:
    """The slots in there."""
    memory = memoryview(mmap.mmap(descriptor, 0))
    return [Slot(memory[start : start + SLOT], lines) for start in range(0, len(memory), SLOT)]


def alone(lines: Sequence[str]) -> list[Slot]:
    """A slot for a process that has no others."""
    return [Slot(memoryview(bytearray(SLOT)), lines)]


def _words(half: memoryview) -> bytes:
    return bytes(half[:WORDS]).rstrip(b"\0")
