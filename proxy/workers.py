"""The supervisor behind `manage.py runproxy --workers N`: forks the workers, replaces those that die, ends them all.

It never runs an event loop or a thread, so that it can fork at any time, and blocks its signals and takes them one by
one, so that none can interrupt it anywhere else. Needs Linux.
"""

import ctypes
import logging
import os
import signal
import ssl
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from proxy import server
from proxy.conf import Options
from proxy.garbage import tune_garbage_collector
from proxy.listeners import Sockets
from proxy.reload import reload
from proxy.stats import stats

FIRST_DELAY = 0.1  # seconds until a worker that died soon after its start is replaced; doubles each time
MAX_DELAY = 5.0  # seconds
STEADY = 10.0  # seconds after which a worker's death has nothing to do with its start: it is replaced at once
STOP_LIMIT = 30.0  # seconds after the drain for workers to end before SIGKILL; most that they allow themselves is half

_ENDS = {signal.SIGTERM, signal.SIGINT}
_SIGNALS = _ENDS | {signal.SIGCHLD, signal.SIGHUP}
_PR_SET_PDEATHSIG = 1  # prctl(2)

logger = logging.getLogger("proxy.workers")


def run(application: Any, listeners: Sequence[Sockets], options: Options, tls: ssl.SSLContext | None = None) -> None:
    """Serve with a worker for each of `listeners` until SIGTERM or SIGINT.

    The sockets stay open in the supervisor, so that clients of a dead worker wait for the next one in the backlog.
    """
    tune_garbage_collector()
    server.exit_on_signals()
    with server.socket_files(options):
        number = Supervisor(listeners, options.drain_window).fork()
        if number is not None:
            server.serve(application, listeners[number], options, tls, f"{_name(number, os.getpid())} ")


def _name(number: int, pid: int) -> str:
    return f"worker {number + 1} (pid {pid})"


@dataclass
class _Worker:
    number: int
    pid: int = 0
    """0 while there is none."""
    started: float = 0.0
    due: float = 0.0
    """When the next one starts; both by the monotonic clock."""
    delay: float = 0.0
    """Seconds from the last one's death until then."""


class Supervisor:
    """Keeps a worker alive for each of `listeners`."""

    def __init__(self, listeners: Sequence[Sockets], drain_window: float = 0.0) -> None:
        self._listeners = listeners
        self._stop_limit = drain_window + STOP_LIMIT
        self._workers = [_Worker(number) for number in range(len(listeners))]
        stats.share(len(listeners))

    def fork(self) -> int | None:
        """Returns in each worker, with its number from 0; in the supervisor, with None, when all workers have ended.

        SIGINT stays blocked in workers: Ctrl-C in a terminal is sent to them too, but the supervisor ends them. SIGHUP
        does until they serve.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        received: int | None = None
        while received not in _ENDS:
            now = time.monotonic()
            for worker in self._workers:
                if not worker.pid and worker.due <= now and self._start(worker):
                    return worker.number
            received = _next_signal(min((worker.due for worker in self._workers if not worker.pid), default=None))
            if received == signal.SIGHUP:
                reload()  # for the workers that start later; the others read for themselves
                self._kill(signal.SIGHUP)
            for worker, end, _ in self._reap():
                self._start_later(worker, end)
        self._stop(signal.SIGINT if received == signal.SIGINT else signal.SIGTERM)
        return None

    def _start(self, worker: _Worker) -> bool:
        """True in the new process."""
        supervisor = os.getpid()
        worker.started = time.monotonic()
        try:
            worker.pid = os.fork()
        except OSError as error:  # no memory, or too many processes
            self._start_later(worker, f"worker {worker.number + 1} can't be started: {error.strerror}")
            return False
        if worker.pid:
            return False
        # The kernel ends this process when the supervisor dies, whatever it dies of.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM))
        if os.getppid() != supervisor:
            sys.exit(1)
        stats.use_slot(worker.number)
        stats.worker = worker.number + 1
        for listener in set(chain(*self._listeners)) - set(self._listeners[worker.number]):
            listener.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS - {signal.SIGINT, signal.SIGHUP})
        return True

    def _start_later(self, worker: _Worker, why: str) -> None:
        now = time.monotonic()
        steady = now - worker.started >= STEADY
        worker.delay = 0.0 if steady else min(max(2 * worker.delay, FIRST_DELAY), MAX_DELAY)
        worker.due = now + worker.delay
        logger.error("%s; the next one starts %s", why, f"in {worker.delay:g} s" if worker.delay else "at once")

    def _reap(self) -> list[tuple[_Worker, str, int]]:
        """The workers that have died: how, in words, and their exit status or minus the signal."""
        dead = []
        while running := self._running():
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            if pid not in running:  # as a container's first process we inherit others' children
                continue
            worker, code = running[pid], os.waitstatus_to_exitcode(status)
            how = f"exited with status {code}" if code >= 0 else f"died of signal {-code} ({signal.strsignal(-code)})"
            dead.append((worker, f"{_name(worker.number, pid)} {how}", code))
            worker.pid = 0
            stats.clear_gauges(worker.number)
        return dead

    def _running(self) -> dict[int, _Worker]:
        return {worker.pid: worker for worker in self._workers if worker.pid}

    def _stop(self, cause: signal.Signals) -> None:
        """End all workers; a second signal is passed on, and makes them hurry."""
        for listener in chain(*self._listeners):
            listener.close()  # or clients would wait in the backlog for nobody
        if cause == signal.SIGINT:  # somebody waits at the terminal
            self._kill(server.HURRY)
        self._kill(signal.SIGTERM)
        deadline: float | None = time.monotonic() + self._stop_limit
        while self._running():
            received = _next_signal(deadline)
            if received is None:
                deadline = None
                limit = self._stop_limit
                logger.error("%d worker(s) still there %g s after SIGTERM: killed", len(self._running()), limit)
                self._kill(signal.SIGKILL)
            elif received in _ENDS:
                self._kill(server.HURRY)
            for _, end, code in self._reap():
                if code:
                    logger.error(end)

    def _kill(self, number: signal.Signals) -> None:
        for pid in self._running():
            os.kill(pid, number)


def _next_signal(until: float | None) -> int | None:
    """Waits for it; None if it hasn't come `until` then, by the monotonic clock."""
    if until is None:
        return signal.sigwait(_SIGNALS)
    info = signal.sigtimedwait(_SIGNALS, max(0.0, until - time.monotonic()))
    return info.si_signo if info else None
