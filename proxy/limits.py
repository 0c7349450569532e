"""What clients may take of one process: connections in total and by address, handshakes and messages a second.

`handshake` takes a `Place` for each connection before the backend is asked, and the consumer frees it at the end.
"""

import random
from ipaddress import IPv6Address
from time import monotonic

from proxy.conf import Options
from proxy.exceptions import ConnectRefused
from proxy.forwarding import plain_address

RETRY_WITHIN = 10  # seconds over which those that were refused are spread, each at random


class Pace:
    """At most `rate` things a second (0: any number), of which a second's worth may come at once: a token bucket."""

    __slots__ = ("_left", "_since", "rate")

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._left = float(rate)
        self._since = 0.0

    def allows(self, now: float) -> bool:
        """May one more come at `now` (time.monotonic())? It counts only if it may."""
        if not self.rate:
            return True
        self._left = min(self.rate, self._left + (now - self._since) * self.rate)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Connections:
    """Those of this process, from the handshake to the end."""

    def __init__(self) -> None:
        self.total = 0
        self.by_address: dict[str, int] = {}
        """Only while max_connections_per_address is on."""
        self.handshakes = Pace(0)


connections = Connections()


class Place:
    """One connection's; a context, at the end of which it is free, whatever happened."""

    __slots__ = ("_address", "_taken", "_whole")

    def __init__(self, whole: Connections = connections) -> None:
        self._whole = whole
        self._taken = False
        self._address = ""

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *_: object) -> None:
        self.free()

    def take(self, address: str, options: Options) -> None:
        """Count this connection, of a client at `address` (empty: not known, so it has no cap of its own).

        Raises ConnectRefused (503, Retry-After) at a cap, or when handshakes come too fast; then nothing is counted.
        """
        whole = self._whole
        if options.max_connections and whole.total >= options.max_connections:
            raise _refusal("there are too many connections (max_connections)", "max_connections")
        capped = options.max_connections_per_address
        network = _network(address) if capped and address else ""
        if network and whole.by_address.get(network, 0) >= capped:
            name = "max_connections_per_address"
            raise _refusal(f"your address has too many connections ({name})", name)
        if options.connect_rate != whole.handshakes.rate:
            whole.handshakes = Pace(options.connect_rate)
        if not whole.handshakes.allows(monotonic()):
            raise _refusal("there are too many handshakes at once (connect_rate)", "connect_rate")
        self._taken = True
        whole.total += 1
        if network:
            self._address = network
            whole.by_address[network] = whole.by_address.get(network, 0) + 1

    def free(self) -> None:
        """The connection is over. A second time does nothing."""
        if not self._taken:
            return
        self._taken = False
        self._whole.total -= 1
        if not self._address:
            return
        if left := self._whole.by_address[self._address] - 1:
            self._whole.by_address[self._address] = left
        else:
            del self._whole.by_address[self._address]


def _network(address: str) -> str:
    """What counts as one address: of IPv6 the first 64 bits, because that is what one client is given."""
    plain = plain_address(address)
    if ":" not in plain:
        return plain
    try:
        return str(IPv6Address(int(IPv6Address(plain)) >> 64 << 64))
    except ValueError:  # a trusted proxy's word that is no address
        return plain


def _refusal(why: str, cause: str) -> ConnectRefused:
    seconds = random.randint(1, RETRY_WITHIN)  # nothing secret  # noqa: S311  # nosec B311
    return ConnectRefused.plain(503, why, (b"retry-after", b"%d" % seconds), cause=cause)
