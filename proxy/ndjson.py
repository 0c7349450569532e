"""Newline-delimited JSON as it comes in: from the pieces of a body to its lines. Pure rules, used by `batch`."""


class Lines:
    """The lines of one body. What is kept of one that isn't complete is never more than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()
        """Of the line that isn't complete yet."""
        self._too_long = False
        """That line is, and what comes of it is dropped."""

    def feed(self, piece: bytes) -> list[bytes | None]:
        """The lines that are complete with this piece, without their newlines; None for one over the limit."""
        *lines, rest = piece.split(b"\n")
        begun = []
        if lines and (self._too_long or self._rest):
            self._add(lines.pop(0))
            begun.append(self._take())
        self._add(rest)
        return begun + [line if len(line) <= self._limit else None for line in lines]

    def end(self) -> list[bytes | None]:
        """The last line, if there is one that has no newline: the body ends here."""
        return [self._take()] if self._too_long or self._rest else []

    def _add(self, part: bytes) -> None:
        if not self._too_long:
            self._rest += part
        if len(self._rest) > self._limit:
            self._too_long = True
            self._rest = bytearray()

    def _take(self) -> bytes | None:
        line = None if self._too_long else bytes(self._rest)
        self._rest = bytearray()
        self._too_long = False
        return line
