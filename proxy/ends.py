"""How sessions end: code and reason, as the close callback tells them (docs/close-codes.md)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class End:
    """How a session ended: the close callback's code and reason."""

    code: int
    reason: str
    text: str | None = None
    """The reason that the client reads, if it is another one."""

    @property
    def by_backend(self) -> bool:
        """Ended by POST /close, so the backend isn't told."""
        return self.reason == BACKEND


BACKEND = "backend"
"""The reason of ends that the backend asked for."""
OPERATOR = "operator"
"""That of ends that somebody else asked for."""


LOST = End(1006, "lost")
SHUTDOWN = End(1012, "shutdown")
REPLACED = End(4001, "replaced")
IDLE = End(4002, "idle")
SLOW = End(1013, "slow")
ERROR = End(1011, "error")
HANDSHAKE = End(1011, "handshake")
TOO_BIG = End(1009, "error")
TOO_FAST = End(1008, "error")
NODE_LOST = End(1012, "node_lost")

_OURS = (LOST, SHUTDOWN, REPLACED, IDLE, SLOW, ERROR, HANDSHAKE, NODE_LOST)
REASONS = (BACKEND, OPERATOR, "client", *(end.reason for end in _OURS))
"""All that there are."""
