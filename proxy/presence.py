"""The other processes of the cluster, as one Redis has them: who was heard of lately and hasn't said good-bye.

Each process says on a common channel that it is there, when it connects and with every probe. One that was heard of but
isn't subscribed now may be cut off from Redis for a moment, with all its sessions: then nobody can say that a session
doesn't exist. Used by `shard`.
"""

from time import monotonic

LIFETIME = 15.0  # seconds after which a process that isn't heard of any more counts as dead; three probes
MAX_PROCESSES = 10_000  # over which nobody new is believed to be one


class Presence:
    """`inbox` is this process's own, which isn't counted."""

    def __init__(self, inbox: bytes) -> None:
        self._inbox = inbox
        self._heard: dict[bytes, float] = {}

    def hear(self, inbox: bytes, left: bool) -> bool:
        """A process said that it is there, or that it leaves; True if it wasn't known."""
        if inbox == self._inbox:
            return False
        known = self._heard.pop(inbox, None) is not None
        if len(self._heard) >= MAX_PROCESSES and len(self.others()) >= MAX_PROCESSES:
            return False
        if not left:
            self._heard[inbox] = monotonic()
        return not known and not left

    def connected(self) -> None:
        """This process is back: while it was away it heard of nobody, which says nothing about them."""
        now = monotonic()
        self._heard = dict.fromkeys(self._heard, now)

    def others(self) -> list[bytes]:
        """The inboxes of those that may have sessions."""
        oldest = monotonic() - LIFETIME
        # In the order in which they were heard of.
        for inbox, heard in list(self._heard.items()):
            if heard > oldest:
                break
            del self._heard[inbox]
        return list(self._heard)
