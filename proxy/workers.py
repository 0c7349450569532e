"""The supervisor behind `manage.py runproxy --workers N`: starts the workers, replaces those that die, ends them all.

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
from itertools import chain
from typing import Any

from proxy import reload_workers, server, worker
from proxy.conf import Options
from proxy.drain import HURRY, exit_on_signals
from proxy.garbage import tune_garbage_collector
from proxy.listeners import Sockets, places, socket_files
from proxy.reload import reload
from proxy.reload_workers import Audience
from proxy.rolling import Member, Rolling
from proxy.stats import stats
from proxy.worker import END, READY, REPLACE, HandOver, Worker

FIRST_DELAY = 0.1  # seconds until a worker that died soon after its start is replaced; doubles each time
MAX_DELAY = 5.0  # seconds
STEADY = 10.0  # seconds after which a worker's death has nothing to do with its start: it is replaced at once
STOP_LIMIT = 30.0  # seconds after the drain for workers to end before SIGKILL; most that they allow themselves is half

_ENDS = {signal.SIGTERM, signal.SIGINT}
_KEPT = {signal.SIGINT, signal.SIGHUP, signal.SIGUSR2}  # blocked in workers too
_SIGNALS = _ENDS | _KEPT | {signal.SIGCHLD, READY, REPLACE}
_PR_SET_PDEATHSIG = 1  # prctl(2)

logger = logging.getLogger("proxy.workers")


def run(application: Any, listeners: Sequence[Sockets], options: Options, tls: ssl.SSLContext | None = None) -> None:
    """Serve with a worker for each of `listeners` until SIGTERM or SIGINT.

    The sockets stay open in the supervisor, so that clients of a dead worker wait for the next one in the backlog.
    """
    tune_garbage_collector()
    exit_on_signals()
    with socket_files(options):
        audience = Audience(reload_workers.listen(places(options)[0]))
        started = Supervisor(listeners, options.drain_window, worker.fixed(options), audience).fork()
        if started:
            server.serve(application, listeners[started.number], options, tls, started)
        else:
            audience.leave()


def take_over(message: int, application: Any, options: Options, tls: ssl.SSLContext | None = None) -> None:
    """Serve as a worker that a supervisor, of older code maybe, has executed. Raises OSError, ValueError."""
    tune_garbage_collector()
    exit_on_signals()
    this, sockets = HandOver.read(message).take(options)
    server.serve(application, sockets, options, tls, this)


class Supervisor:
    """Keeps a worker alive for each of `listeners`; `fixed` are options that it insists on (`worker.fixed`)."""

    def __init__(
        self,
        listeners: Sequence[Sockets],
        drain_window: float = 0.0,
        fixed: dict[str, str] | None = None,
        audience: Audience | None = None,
    ) -> None:
        self._listeners = listeners
        self._stop_limit = drain_window + STOP_LIMIT
        self._fixed = fixed or {}
        self._members = [Member(number, number) for number in range(len(listeners))]
        self._audience = audience or Audience()
        self._rolling = Rolling(self._members, self._audience, self._stop_limit)
        self._stats = stats.share(len(listeners) + 2)
        stats.use_slot(len(listeners) + 1)  # those before are the workers', one more than serve (rolling)

    def fork(self) -> Worker | None:
        """Returns in each forked worker, with what it is; in the supervisor, with None, when all workers have ended.

        SIGINT stays blocked in workers: Ctrl-C in a terminal is sent to them too, but the supervisor ends them. SIGHUP
        does until they serve.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        received: int | None = None
        while received not in _ENDS:
            now = time.monotonic()
            for member in self._members:
                if not member.pid and member.due <= now and (started := self._start(member)):
                    return started
            if (successor := self._rolling.look()) and (started := self._start(successor)):
                return started
            dues = [member.due for member in self._members if not member.pid]
            received, sender = _next_signal(min([*dues, self._rolling.deadline]))
            self._obey(received, sender)
            for member, end, _ in self._reap():
                if not self._rolling.on_death(member, end):
                    stats.worker_deaths += 1
                    self._start_later(member, end)
        self._rolling.end()
        self._stop(signal.SIGINT if received == signal.SIGINT else signal.SIGTERM)
        return None

    def _obey(self, received: int | None, sender: int) -> None:
        if received == signal.SIGHUP:
            reload()  # for the workers that are forked later; the others read for themselves
            self._kill(signal.SIGHUP)
        elif received == signal.SIGUSR2:
            self._rolling.replace_all()
        elif received == READY:
            self._rolling.on_ready(sender)
        elif received == REPLACE:
            self._rolling.replace(sender)

    def _start(self, member: Member) -> Worker | None:
        """What the new process is, in the new process."""
        this = Worker(member.number, os.getpid(), member is self._rolling.successor)
        member.started = time.monotonic()
        try:
            member.pid = os.fork()
        except OSError as error:  # no memory, or too many processes
            why = f"worker {member.number + 1} can't be started: {error.strerror}"
            if this.waits:
                self._rolling.on_failure(why)
            else:
                self._start_later(member, why)
            return None
        if member.pid:
            return None
        # The kernel ends this process when the supervisor dies, whatever it dies of.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(END))
        if os.getppid() != this.supervisor:
            sys.exit(1)
        listeners = self._listeners[member.number]
        for listener in set(chain(*self._listeners)) - set(listeners):
            listener.close()
        self._audience.leave()
        if not member.fresh:
            stats.use_slot(member.slot)
            stats.worker = member.number + 1
            this.take_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS - _KEPT)
        if member.fresh:
            numbers = [listener.fileno() for listener in listeners]
            HandOver(
                member.number, member.slot, this.supervisor, this.waits, numbers, self._stats, self._fixed
            ).execute()
        return this

    def _start_later(self, member: Member, why: str) -> None:
        now = time.monotonic()
        steady = now - member.started >= STEADY
        member.delay = 0.0 if steady else min(max(2 * member.delay, FIRST_DELAY), MAX_DELAY)
        member.due = now + member.delay
        logger.error("%s; the next one starts %s", why, f"in {member.delay:g} s" if member.delay else "at once")

    def _reap(self) -> list[tuple[Member, str, int]]:
        """The workers that have died: how, in words, and their exit status or minus the signal."""
        dead = []
        while running := self._running():
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            if pid not in running:  # as a container's first process we inherit others' children
                continue
            member, code = running[pid], os.waitstatus_to_exitcode(status)
            how = f"exited with status {code}" if code >= 0 else f"died of signal {-code} ({signal.strsignal(-code)})"
            dead.append((member, f"{member.name} {how}", code))
            member.pid = 0
            stats.clear_gauges(member.slot)
        return dead

    def _running(self) -> dict[int, Member]:
        return {member.pid: member for member in (*self._members, *self._rolling.others) if member.pid}

    def _stop(self, cause: signal.Signals) -> None:
        """End all workers; a second signal is passed on, and makes them hurry. So is SIGHUP."""
        for listener in chain(*self._listeners):
            listener.close()  # or clients would wait in the backlog for nobody
        if cause == signal.SIGINT:  # somebody waits at the terminal
            self._kill(HURRY)
        self._kill(END)
        deadline = time.monotonic() + self._stop_limit
        while self._running():
            received, _ = _next_signal(deadline)
            if received is None:
                deadline = float("inf")
                limit = self._stop_limit
                logger.error("%d worker(s) still there %g s after SIGTERM: killed", len(self._running()), limit)
                self._kill(signal.SIGKILL)
            elif received in _ENDS:
                self._kill(HURRY)
            elif received == signal.SIGHUP:  # a key that is taken out is out, also where sessions are still closed
                self._kill(signal.SIGHUP)
            for member, end, code in self._reap():
                if code and member is not self._rolling.successor:  # which needn't have come as far as to take signals
                    logger.error(end)

    def _kill(self, number: int) -> None:
        for pid in self._running():
            os.kill(pid, number)


def _next_signal(until: float) -> tuple[int | None, int]:
    """Waits for it, and says whose it is; None if it hasn't come `until` then, by the monotonic clock."""
    if until == float("inf"):
        info = signal.sigwaitinfo(_SIGNALS)
    else:
        found = signal.sigtimedwait(_SIGNALS, max(0.0, until - time.monotonic()))
        if found is None:
            return None, 0
        info = found
    return info.si_signo, info.si_pid
