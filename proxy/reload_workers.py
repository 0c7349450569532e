"""`runproxy --reload-workers`: finds the supervisor, has it replace its workers, and waits for what becomes of that.

The supervisor listens on an abstract UNIX socket that is named after the place where it serves. The kernel takes that
away with the process, and says whose it is, so that nothing can be stale.
"""

import contextlib
import errno
import hashlib
import logging
import os
import signal
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace

from django.core.management.base import CommandError

from proxy.listeners import Place
from proxy.printable import shown

ANSWER_LIMIT = 10.0  # seconds for the supervisor's first word
_BACKLOG = 16
_CREDENTIALS = struct.Struct("3i")  # struct ucred: process, user, group

logger = logging.getLogger("proxy.reload_workers")


def listen(place: Place) -> socket.socket | None:
    """The supervisor's socket; None, with a warning, if another process has its name."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(_name(place))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        listener.close()
        logger.warning("--reload-workers finds another proxy of this place; send SIGUSR2 to process %d", os.getpid())
        return None
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


class Audience:
    """Who waits to hear what becomes of the workers. Nobody that doesn't read is waited for."""

    def __init__(self, listener: socket.socket | None = None) -> None:
        self.listener = listener
        self._waiting: list[socket.socket] = []
        self._hearing: list[socket.socket] = []

    def gather(self, when: str) -> None:
        """Those that have come since; `when` what they have asked for begins."""
        if self.listener:
            with contextlib.suppress(OSError):  # there is no more, or no descriptor for it
                while True:
                    connection, _ = self.listener.accept()
                    connection.setblocking(False)
                    self._waiting.append(connection)
                    self._write([connection], f"replacing workers: {when}")

    def begin(self) -> None:
        """What they have asked for begins; who comes later hears of the next time."""
        self._hearing, self._waiting = self._waiting, []

    def say(self, line: str) -> None:
        self._write(self._hearing, line)

    def end(self, line: str) -> None:
        """The last line."""
        self.say(line)
        for connection in self._hearing:
            connection.close()
        self._hearing = []

    def leave(self) -> None:
        """At the end, and in a process that was forked: there they are its parent's."""
        for each in (self.listener, *self._waiting, *self._hearing):
            if each:
                each.close()

    @staticmethod
    def _write(to: list[socket.socket], line: str) -> None:
        for connection in to:
            with contextlib.suppress(OSError):
                connection.send(f"{line}\n".encode())


def ask(place: Place) -> Iterator[str]:
    """Have the supervisor that serves at this place replace its workers; what it says meanwhile.

    Raises CommandError if there is none, or it doesn't succeed.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_LIMIT)
        try:
            connection.connect(_name(place))
            _signal(connection)
            with connection.makefile(encoding="utf-8", errors="replace") as lines:
                line = lines.readline()
                connection.settimeout(None)
                while line not in ("", "done\n"):
                    line = shown(line.rstrip("\n"))
                    if line.startswith("failed: "):
                        raise CommandError(f"{line.removeprefix('failed: ')}; the proxy's log says more")
                    yield line
                    line = lines.readline()
        except ConnectionRefusedError as error:
            raise CommandError(_nobody(place)) from error
        except OSError as error:
            raise CommandError(f"the proxy doesn't answer within {ANSWER_LIMIT:g} s: {error}") from error
        if not line:
            raise CommandError("the proxy's supervisor has ended")


def _signal(connection: socket.socket) -> None:
    pid, user, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    try:
        if os.stat(f"/proc/{pid}").st_uid != user:  # whoever listened has gone, and another process has its number
            raise CommandError(f"expected a process of user {user}, found that {pid} isn't one")
        os.kill(pid, signal.SIGUSR2)
    except OSError as error:
        raise CommandError(f"can't signal the proxy, process {pid} of user {user}: {error.strerror}") from error


def _name(place: Place) -> str:
    absolute = replace(place, sock=os.path.abspath(place.sock)) if place.sock else place
    return "\0kuiperbelt-workers-" + hashlib.sha256(absolute.in_words().encode()).hexdigest()[:32]


def _nobody(place: Place) -> str:
    where = place.in_words()
    if not _is_served(place):
        return f"expected a proxy that serves on {where}, found none"
    return (
        f"expected a proxy with --workers on {where}, found something that listens there without: nobody takes over "
        "from a single process, so stop it (SIGTERM) and start it again; with --workers 2 the next deploy needs no stop"
    )


def _is_served(place: Place) -> bool:
    with contextlib.suppress(OSError):
        if place.sock:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(place.sock)
        else:
            socket.create_connection((place.host or "localhost", place.port), timeout=ANSWER_LIMIT).close()
        return True
    return False
