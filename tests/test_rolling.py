"""The order in which workers are replaced, with processes that do nothing else. Real ones: test_reload_workers.py."""

from __future__ import annotations

import re
import signal
import time

from tests.test_workers import Supervised

FRESH = """
from proxy import rolling, worker
from proxy.options import Options
def anew(work):
    if "--take-over" in sys.argv:
        this, _ = worker.HandOver.read(int(sys.argv[-1])).take(Options())
        work(this)
        while True:
            signal.pause()
def be_ready(this):
    logging.error("worker %d anew", this.number + 1)
    this.tell(worker.READY)
"""
"""What workers of the code on disk do, which here is this script again."""
IDLE = "logging.error('idle'); [signal.pause() for _ in range(9)]"


def plain(line: str) -> str:
    return re.sub(r"pid \d+", "pid N", line)


def lines(supervisor: Supervised, count: int) -> list[str]:
    """So many of its next lines, without numbers of processes."""
    return [plain(supervisor.line()) for _ in range(count)]


def turn(number: int) -> list[str]:
    """What is said when a worker has its turn."""
    name = f"worker {number}"
    leaves = f"{name} (pid N) leaves, pid N has taken over"
    return [f"{name} anew", leaves]


def without_deaths(said: list[str]) -> list[str]:
    """A worker's death comes when it comes: with a status when it has begun to take signals, by one before that."""
    return [line for line in said if not re.match(r"worker \d \(pid N\) (exited|died)", line)]


def test_one_by_one_and_once_more_afterwards() -> None:
    """However often it is asked for in the meantime."""
    prepare = f"{FRESH}\nlisteners.append(socket.socket()); anew(be_ready)"
    with Supervised.running(prepare, IDLE) as supervisor:
        assert lines(supervisor, 2) == ["idle", "idle"]
        supervisor.process.send_signal(signal.SIGUSR2)
        assert lines(supervisor, 2) == ["replacing workers: 2, one by one", "worker 1 anew"]
        for _ in range(2):
            supervisor.process.send_signal(signal.SIGUSR2)
            time.sleep(0.01)
        said = ["worker 1 anew"]
        while said.count("replacing workers: done") < 2:
            said += lines(supervisor, 1)
        once = [*turn(1), *turn(2), "replacing workers: done"]
        assert without_deaths(said) == [*once, "replacing workers: 2, one by one", *once]
        assert len(said) == len(without_deaths(said)) + 4
        assert supervisor.end() == ""


def test_one_that_hangs_at_its_start_is_killed_and_nothing_changes() -> None:
    with Supervised.running(f"{FRESH}\nrolling.START_LIMIT = 0.2; anew(lambda this: None)", IDLE) as supervisor:
        assert lines(supervisor, 1) == ["idle"]
        supervisor.process.send_signal(signal.SIGUSR2)
        assert lines(supervisor, 4) == [
            "replacing workers: 1, one by one",
            "worker 1 (pid N) took too long to start: killed",
            "worker 1 goes on as it is, its successor failed: it wasn't ready within 0.2 s",
            "replacing workers: stopped",
        ]
        assert supervisor.end() == ""


def test_one_that_does_not_leave_is_killed() -> None:
    stubborn = f"signal.signal(worker.LEAVE, signal.SIG_IGN); {IDLE}"
    with Supervised.running(f"{FRESH}\nworkers.STOP_LIMIT = 0.5; anew(be_ready)", stubborn) as supervisor:
        assert lines(supervisor, 1) == ["idle"]
        supervisor.process.send_signal(signal.SIGUSR2)
        assert lines(supervisor, 6) == [
            "replacing workers: 1, one by one",
            *turn(1),
            "worker 1 (pid N) took too long to leave: killed",
            "worker 1 (pid N) died of signal 9 (Killed)",
            "replacing workers: done",
        ]


def test_code_that_dies_at_once_is_replaced_by_code_that_does_not() -> None:
    with Supervised.running(f"{FRESH}\nworkers.MAX_DELAY = 0.1; anew(be_ready)", "sys.exit(3)") as supervisor:
        assert "exited with status 3" in supervisor.line()
        supervisor.process.send_signal(signal.SIGUSR2)
        said: list[str] = []
        while "replacing workers: done" not in said:
            said += lines(supervisor, 1)
            assert len(said) < 1000
        # The last one of the old code was there to be told, or it wasn't.
        taken = [line for line in without_deaths(said) if line.endswith("has taken over")]
        assert taken in (["worker 1 (pid N) leaves, pid N has taken over"], ["worker 1: pid N has taken over"])
        assert said[-1] == "replacing workers: done"
        time.sleep(0.3)
        assert supervisor.end() == ""


def test_a_successor_that_can_not_be_forked() -> None:
    prepare = f"""{FRESH}
import errno
fork, tries = os.fork, iter(range(9))
def scarce():
    if next(tries):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return fork()
os.fork = scarce
"""
    with Supervised.running(prepare, IDLE) as supervisor:
        assert lines(supervisor, 1) == ["idle"]
        supervisor.process.send_signal(signal.SIGUSR2)
        why = "worker 1 can't be started: Resource temporarily unavailable"
        assert lines(supervisor, 3) == [
            "replacing workers: 1, one by one",
            f"worker 1 goes on as it is, its successor failed: {why}",
            "replacing workers: stopped",
        ]
        assert supervisor.end() == ""
