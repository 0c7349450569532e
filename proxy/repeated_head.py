"""Recognises a push whose head is that of the last one on its connection, but for the session and the length.

A backend's HTTP client sends the same headers with every request of a connection. Parsing them anew, a call for each,
is half of what a push costs the push lane, so the lane compares first. Whatever differs in any other byte is parsed.
"""

import re
from functools import cache

from proxy.pushes import Head, Push


class RepeatedHead:
    """The bytes around the session and the length of one plain push, and what was found in them.

    `head`'s session is that of the request in hand; everything else in it holds for each of them.
    """

    __slots__ = ("_after", "_before", "_between", "_session_first", "head", "push", "url")

    def __init__(self, pieces: tuple[bytes, bytes, bytes], session_first: bool, push: Push, url: bytes, head: Head):
        self._before, self._between, self._after = pieces
        self._session_first = session_first
        self.push = push
        self.url = url
        self.head = head

    def body_of(self, data: bytes) -> bytes | None:
        """The body, if these bytes are one whole such request; its session is in `head` then, unchecked."""
        if not data.startswith(self._before):
            return None
        start = len(self._before)
        end = data.find(self._between, start)
        if end < 0:
            return None
        first = data[start:end]
        start = end + len(self._between)
        end = data.find(self._after, start)
        if end < 0:
            return None
        session, size = (first, data[start:end]) if self._session_first else (data[start:end], first)
        # Neither find went past the end of a line: a size has digits only, a session with a line's end is no key.
        if not size.isdigit() or len(size) > 9:
            return None
        body = data[end + len(self._after) :]
        if len(body) != int(size):
            return None
        self.head.session_values = [session]
        return body


def learn(data: bytes, session_header: bytes, head: Head, push: Push, url: bytes, body: bytes) -> RepeatedHead | None:
    """What is to be recognised next time, if these bytes are one plain push, from which the rest was parsed.

    None if they are more than that, or it is written in an unusual way.
    """
    end = data.find(b"\r\n\r\n") + 2
    lines = data[:end]
    if lines.count(b"\n") != lines.count(b"\r\n") or data[end + 2 :] != body:
        return None
    found = list(_holes(session_header).finditer(lines))
    if len(found) != 2 or {each[2] for each in found} != {head.session_values[0], head.framing[0]}:
        return None
    one, two = found
    pieces = data[: one.start(2)], data[one.end(2) : two.start(2)], data[two.end(2) : end + 2]
    return RepeatedHead(pieces, two[1] is not None, push, url, head)


@cache
def _holes(session_header: bytes) -> re.Pattern[bytes]:
    return re.compile(rb"\r\n(?:(content-length)|%s):[ \t]*([^\r\n]*)" % re.escape(session_header), re.IGNORECASE)
