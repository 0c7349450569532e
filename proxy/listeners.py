"""The listening sockets of `runproxy`: the public one and, if it is configured, one of the API's own."""

import errno
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from proxy.conf import Options

BACKLOG = 2048
USER_TIMEOUT = 30_000  # milliseconds that what was sent may stay without acknowledgement (RFC 5482)

Sockets = tuple[socket.socket, ...]
"""What one process listens on: the public socket, then the API's, if it has one of its own."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where is listened: a UNIX socket, one address (`host`), or all."""

    sock: str
    host: str
    port: int

    def listen(self, workers: int = 1) -> list[socket.socket]:
        """The listening socket of each worker; a UNIX socket they share. Raises OSError."""
        if self.sock:
            return [_listen_unix(self.sock)] * workers
        # Made without SO_REUSEPORT, so that it fails if anybody, another proxy too, listens there already. It joins
        # the others later, and takes their port with it.
        first = self._listen_tcp()
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, workers > 1)
        same_port = replace(self, port=first.getsockname()[1])
        return [first, *(same_port._listen_tcp(reuse_port=True) for _ in range(workers - 1))]

    def _listen_tcp(self, reuse_port: bool = False) -> socket.socket:
        listener = self._bind_tcp(reuse_port)
        if sys.platform == "linux":  # the accepted sockets inherit it
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT)
        return listener

    def _bind_tcp(self, reuse_port: bool) -> socket.socket:
        address = self.host, self.port
        if not self.host and socket.has_dualstack_ipv6():
            return socket.create_server(
                address, family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True, reuse_port=reuse_port
            )
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        return socket.create_server(address, family=family, backlog=BACKLOG, reuse_port=reuse_port)

    def in_words(self, address: Any = None) -> str:
        """The place for people; `address` is the bound one, of which the port counts."""
        if self.sock:
            return self.sock
        return f"{self.host or 'all addresses'} port {address[1] if address else self.port}"

    @contextmanager
    def socket_file(self) -> Iterator[None]:
        """Unlink the UNIX socket, if it is one, at the end of the process that has made it."""
        process = os.getpid()
        inode = os.stat(self.sock).st_ino if self.sock else 0
        try:
            yield
        finally:
            # Workers that were forked meanwhile leave it alone, and another proxy may have put its own there since.
            ours = self.sock and os.getpid() == process
            if ours and os.path.exists(self.sock) and os.stat(self.sock).st_ino == inode:
                os.unlink(self.sock)


def why(error: OSError) -> str:
    """Why it can't be listened, without the address, which Python adds."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)


def advice(error: OSError) -> str:
    """What to do about it, where that can be said."""
    taken = error.errno == errno.EADDRINUSE
    return "; end what listens there, or choose another port (EKBO_PORT, EKBO_API_PORT)" if taken else ""


def places(options: Options) -> tuple[Place, ...]:
    """The public place, then the API's, if it has one of its own."""
    public = Place(options.sock, options.host, options.port)
    if not options.has_api_listener:
        return (public,)
    return public, Place(options.api_sock, options.api_host, options.api_port or 0)


@contextmanager
def socket_files(options: Options) -> Iterator[None]:
    """Unlink the UNIX sockets, if there are any, at the end of the process that has made them."""
    with ExitStack() as stack:
        for place in places(options):
            stack.enter_context(place.socket_file())
        yield


def refuse_file(path: str) -> None:
    """Raises OSError where a UNIX socket can't be, because somebody's file is there."""
    if os.path.exists(path) and not stat.S_ISSOCK(os.stat(path).st_mode):
        raise OSError("a file that isn't a socket is there")


def _listen_unix(path: str) -> socket.socket:
    refuse_file(path)
    if os.path.exists(path):
        # Left behind by a process that was killed, unless somebody answers on it.
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
