"""What a worker gets from its supervisor, and when it can't take that. That it serves is in test_reload_workers.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import asdict

import pytest

from proxy.options import Options
from proxy.worker import READY, HandOver, Worker, fixed

CLOSED = 999
NOTHING = HandOver(0, 0, os.getpid(), True, [], -1, {})


def message(text: str) -> int:
    descriptor = os.memfd_create("test")
    os.write(descriptor, text.encode())
    return descriptor


def test_options_that_are_as_they_were_are_no_reason() -> None:
    handed = HandOver(0, 0, 1, True, [], CLOSED, fixed(Options(port=1, sock="/a", redis_prefix="x")))
    for changed in (
        Options(port=2, sock="/a", redis_prefix="x"),
        Options(port=1, sock="/a", redis_prefix="x", tls_cert="c"),
    ):
        with pytest.raises(ValueError, match=r"^(port|tls_cert): changed, but only a restart takes that$"):
            handed.take(changed)
    # Which file the certificate is in, or how long anything may take, is for each worker to know.
    with pytest.raises(OSError, match="Bad file descriptor"):
        handed.take(Options(port=1, sock="/a", redis_prefix="x", drain_window=7.0, tls_key="k"))


def test_an_option_that_only_one_version_knows_is_no_reason() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        HandOver(0, 0, 1, True, [], CLOSED, {"gone": "'x'"}).take(Options())


@pytest.mark.parametrize("text", ["", "{", "\0"])
def test_what_is_no_message(text: str) -> None:
    with pytest.raises(ValueError, match="Expecting"):
        HandOver.read(message(text))


def test_a_supervisor_that_says_too_little() -> None:
    with pytest.raises(
        ValueError, match=r"^expected slot, supervisor, .* from the supervisor, found nothing: it needs a"
    ):
        HandOver.read(message('{"number": 0, "more": 1}'))


def test_it_reads_what_was_executed() -> None:
    script = f"""
import os, sys
from proxy.worker import HandOver
if "--take-over" in sys.argv:
    print(HandOver.read(int(sys.argv[-1])))
else:
    one, two = os.pipe()
    HandOver(1, 2, {os.getpid()}, True, [one], two, {{"port": "9"}}).execute()
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    expected = {**asdict(NOTHING), "number": 1, "slot": 2, "options": {"port": "9"}}
    found = asdict(eval(ran.stdout))
    assert {**found, "listeners": [], "stats": -1} == expected
    assert len({*found["listeners"], found["stats"]}) == 2


def test_python_that_is_not_there_any_more() -> None:
    script = "import sys; from proxy.worker import HandOver; sys.executable = '/nowhere'; "
    script += "HandOver(0, 0, 0, True, [], 2, {}).execute()"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (1, "/nowhere can't be executed: No such file or directory\n")


def test_nobody_else_is_told() -> None:
    """Whose supervisor has died has another parent, to whom the signal would mean its end."""
    with subprocess.Popen(["/bin/sleep", "5"]) as other:
        Worker(0, other.pid, True).tell(READY)
        other.send_signal(signal.SIGKILL)
        assert other.wait() == -signal.SIGKILL
