"""What was sent and what arrived in a run of a cluster, and the proof that both agree. Pure rules, no I/O.

`recording` fills a History in from real nodes. Times are seconds of one clock, that of the test's own process, which
makes all requests and has all clients: what ended before something else began there was really first.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from proxy.exceptions import ClusterUnreachable, NoAnswer, SendTimeout, SessionClosed, SessionNotFound
from tests.clients import Frame

OK = "OK"
UNKNOWN = "no HTTP answer"
"""The request failed: a time-out, a reset, a node that was killed."""

NOT_SENT = (SessionNotFound.text, SessionClosed.text, ClusterUnreachable.text, SendTimeout.text)
"""Answers which say for sure that the session did not get the frame."""
MAYBE_SENT = (NoAnswer.text, UNKNOWN)

GRACE = 1.0
"""Seconds that a frame, or the news of an end, may be under way over the loopback address between a process and a
client. It is microseconds, but the reader of either end may have to wait for one of two busy cores."""


@dataclass(frozen=True)
class Payload:
    """What a frame carries: who sent it, the how manieth of this sender it is, and to whom."""

    sender: str
    number: int
    keys: tuple[str, ...]

    @property
    def frame(self) -> Frame:
        """The frame, of a length of its own; every other one is binary."""
        text = f"{self.sender} {self.number} {','.join(self.keys)} {'x' * (self.number * 37 % 500)}"
        return text.encode() if self.number % 2 else text

    @classmethod
    def read(cls, frame: Frame) -> Payload | None:
        """Of a frame that arrived; None if it is not, to the byte, one that was sent."""
        text = frame.decode("utf-8", "replace") if isinstance(frame, bytes) else frame
        parts = text.split(" ")
        if len(parts) != 4 or not parts[1].isdecimal():
            return None
        payload = cls(parts[0], int(parts[1]), tuple(parts[2].split(",")))
        return payload if payload.frame == frame else None

    def __str__(self) -> str:
        return f"{self.sender}#{self.number}"


@dataclass(frozen=True)
class Sent:
    """One POST /send, and what it was answered for each key."""

    payload: Payload
    start: float
    end: float
    outcomes: dict[str, str]


@dataclass(eq=False)
class Connection:
    """One connection of a key, as its client saw it."""

    key: str
    node: str
    began: float
    opened: float | None = None
    """When the 101 was there; None: it never was."""
    frames: list[tuple[float, Frame]] = field(default_factory=list)
    ended: float | None = None
    """When the client began to leave, or saw the end. None: it was there up to the end of the run."""
    end: str = ""
    """"left": the client closed or dropped the connection, and read no further. "lost": it ended without a Close frame
    (the process was killed). "refused": an answer other than 101. Else the code of the Close frame from the server."""
    status: int = 0
    """What the handshake was answered."""

    def __str__(self) -> str:
        return f"{self.key}@{self.node}/{self.began:.3f}"


@dataclass
class History:
    """A whole run. `join`: duplicate_session is join, so that all connections of a key receive."""

    sends: list[Sent] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    pauses: list[tuple[str, float, float]] = field(default_factory=list)
    """When which node was stopped, and went on."""
    gaps: list[tuple[float, float]] = field(default_factory=list)
    """When some process may have been apart from the others: from a fault on until all are well again."""
    join: bool = False

    def problems(self) -> list[str]:
        """Everything that can't be explained."""
        arrivals = list(self._arrivals())
        return [
            *self._strange(arrivals),
            *self._repeated(arrivals),
            *self._out_of_order(),
            *self._gone_back(),
            *self._missing(arrivals),
            *self._denied(arrivals),
            *self._falsely_refused(),
        ]

    def summary(self) -> dict[str, int]:
        """Counts: sends, their answers by text, connections by their end, frames."""
        answers = Counter(outcome for sent in self.sends for outcome in sent.outcomes.values())
        ends = Counter(f"connections: {connection.end or 'stayed'}" for connection in self.connections)
        frames = sum(len(connection.frames) for connection in self.connections)
        return {
            "sends": len(self.sends),
            **dict(sorted(answers.items())),
            "frames": frames,
            **dict(sorted(ends.items())),
        }

    def lost(self) -> int:
        """Frames that were answered OK and never came, without an explanation."""
        return len(list(self._missing(list(self._arrivals()))))

    def duplicated(self) -> int:
        """Frames that came more often than they were sent."""
        return len(list(self._repeated(list(self._arrivals()))))

    def _arrivals(self) -> Iterator[tuple[Connection, Frame, Payload | None]]:
        for connection in self.connections:
            for _, frame in connection.frames:
                yield connection, frame, Payload.read(frame)

    def _carried(self) -> dict[Payload, list[Sent]]:
        """The sends that carried each payload: more than one if it was sent again."""
        carried = defaultdict(list)
        for sent in self.sends:
            carried[sent.payload].append(sent)
        return carried

    def _strange(self, arrivals: Sequence[tuple[Connection, Frame, Payload | None]]) -> Iterator[str]:
        """Frames that nobody sent, or not to that session."""
        carried = self._carried()
        for connection, frame, payload in arrivals:
            if payload is None or payload not in carried:
                yield f"{connection} got what nobody sent: {frame!r:.80}"
            elif connection.key not in payload.keys:
                yield f"{connection} got {payload}, which was for {payload.keys}"

    def _repeated(self, arrivals: Sequence[tuple[Connection, Frame, Payload | None]]) -> Iterator[str]:
        """Frames that came more often than they were sent: to one connection, and but for `join` to one key."""
        carried = self._carried()
        counts = Counter((connection if self.join else connection.key, payload) for connection, _, payload in arrivals)
        for (where, payload), count in counts.items():
            key = where if isinstance(where, str) else where.key
            if payload in carried and count > len(carried[payload]):
                places = [str(place) for place, _, found in arrivals if found == payload and place.key == key]
                yield f"{payload} came {count} times to {where}: {', '.join(places)}"

    def _out_of_order(self) -> Iterator[str]:
        """Of two sends that were answered OK, one after the other, whoever made them, the first's frame comes first.

        Sends whose outcome isn't known don't count: their frames may come late. With `join` it isn't known, while the
        processes are apart, which of the key's connections OK was about.
        """
        certain = {
            (sent.payload, key): sent for sent in self.sends for key, outcome in sent.outcomes.items() if outcome == OK
        }
        again = {payload for payload, sends in self._carried().items() if len(sends) > 1}
        for connection in self.connections:
            latest: Sent | None = None
            for _, frame in connection.frames:
                payload = Payload.read(frame)
                sent = certain.get((payload, connection.key)) if payload and payload not in again else None
                if sent is None:
                    continue
                apart = self.join and latest is not None and self._apart(sent.start, latest.end)
                if latest and sent.end < latest.start and not apart:
                    yield (
                        f"{connection} got {latest.payload} before {sent.payload},"
                        f" which was answered {latest.start - sent.end:.3f} s before the other was sent"
                    )
                if latest is None or sent.start > latest.start:
                    latest = sent

    def _gone_back(self) -> Iterator[str]:
        """Once a newer connection of a key has got something, an older one gets nothing that is sent later.

        Apart from the others a process can't know of the newer connection, and goes on to serve its own.
        """
        if self.join:
            return
        places = defaultdict(list)
        for connection in self.connections:
            for _, frame in connection.frames:
                places[connection.key, Payload.read(frame)].append(connection)
        latest: dict[str, tuple[Sent, Connection]] = {}
        for sent in sorted(self.sends, key=lambda sent: sent.start):
            for key in sent.payload.keys:
                for connection in places[key, sent.payload]:
                    before, newer = latest.get(key, (sent, connection))
                    older = connection.opened is not None and connection.opened < newer.began
                    if older and before.end < sent.start and not self._apart(before.start, sent.end):
                        yield f"{connection} got {sent.payload} after {newer}, which is newer, got {before.payload}"
                    if connection.began >= newer.began:
                        latest[key] = sent, connection

    def _apart(self, start: float, end: float) -> bool:
        return any(begins < end and start < ends for begins, ends in self.gaps)

    def _missing(self, arrivals: Sequence[tuple[Connection, Frame, Payload | None]]) -> Iterator[str]:
        """Frames that were answered OK and never came, though no connection of the key ended so as to explain it."""
        arrived = {(connection.key, payload) for connection, _, payload in arrivals}
        by_key = self._by_key()
        for sent in self.sends:
            for key, outcome in sent.outcomes.items():
                if outcome != OK or (key, sent.payload) in arrived:
                    continue
                if not any(self._may_have_swallowed(connection, sent) for connection in by_key[key]):
                    yield f"{sent.payload} to {key} was answered OK at {sent.end:.3f} and never came: {self._life(key)}"

    def _may_have_swallowed(self, connection: Connection, sent: Sent) -> bool:
        """Could this connection have had the frame written to it and its client not have read it?

        OK means that the process wrote it to the socket. After that it is lost only with the connection, and only if
        that didn't end in order: a Close frame from the server comes after all that it wrote before, and a refused
        handshake never was a session. A client that leaves reads no further; a process that is killed takes with it
        what the kernel hadn't yet got, and by its reset what the client hadn't yet read. So the frame must have been
        written not much before the end as the client knows it, or between that and when the process noticed it.
        """
        if connection.ended is None or connection.end not in ("left", "lost"):
            return False
        return connection.began <= sent.end and self._about_its_end(connection, sent)

    def _about_its_end(self, connection: Connection, sent: Sent) -> bool:
        ended = connection.ended
        assert ended is not None
        noticed = ended + GRACE
        for node, start, end in self.pauses:
            # A process that stands still notices nothing, and at first, when it goes on, may not look there.
            if node == connection.node and start < noticed and end > ended:
                noticed = max(noticed, end + GRACE)
        return sent.end > ended - GRACE and sent.start < noticed

    def _denied(self, arrivals: Sequence[tuple[Connection, Frame, Payload | None]]) -> Iterator[str]:
        """Frames that came although the answer said for sure that they would not."""
        carried = self._carried()
        for connection, _, payload in arrivals:
            outcomes = (
                {sent.outcomes.get(connection.key, "") for sent in carried.get(payload, [])} if payload else set()
            )
            if outcomes and outcomes <= set(NOT_SENT):
                yield f"{connection} got {payload}, which was answered {sorted(outcomes)}"

    def _falsely_refused(self) -> Iterator[str]:
        """Answers "not found" or "closed" though the session was there all the time; and answers that nobody knows."""
        by_key = self._by_key()
        for sent in self.sends:
            for key, outcome in sent.outcomes.items():
                if outcome not in (OK, *NOT_SENT, *MAYBE_SENT):
                    yield f"{sent.payload} to {key} was answered {outcome!r}"
                if outcome not in (SessionNotFound.text, SessionClosed.text):
                    continue
                for connection in by_key[key]:
                    # The server may have ended it a little before its client knew.
                    ended = connection.ended or float("inf")
                    if connection.opened and connection.opened < sent.start and ended > sent.end + GRACE:
                        yield f"{sent.payload} at {sent.start:.3f} was answered {outcome!r}, but {connection} was there"

    def _by_key(self) -> dict[str, list[Connection]]:
        by_key = defaultdict(list)
        for connection in self.connections:
            by_key[connection.key].append(connection)
        return by_key

    def _life(self, key: str) -> str:
        """The connections of a key, for messages."""
        lives = [
            f"{connection.node} {connection.began:.3f}-{connection.ended or float('inf'):.3f} {connection.end}"
            for connection in self.connections
            if connection.key == key
        ]
        return "; ".join(lives) or "it never connected"
