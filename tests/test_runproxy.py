"""`manage.py runproxy` as a process: how it starts, fails and ends."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONNECT = {"EKBO_CONNECT_CALLBACK_URL": "http://127.0.0.1:9/connect"}


def runproxy(*arguments: str, **environ: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "manage.py", "runproxy", *arguments],
        cwd=ROOT,
        env={**os.environ, **CONNECT, **environ},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_port_that_is_taken_is_named_and_exits_with_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = runproxy(EKBO_HOST="127.0.0.1", EKBO_PORT=port)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert errors.splitlines()[-1] == (
        f"CommandError: can't listen on 127.0.0.1 port {port}: Address already in use; "
        "end what listens there, or choose another port (EKBO_PORT, EKBO_API_PORT)"
    )


def test_workers_without_redis_are_refused() -> None:
    process = runproxy("--workers", "2", EKBO_HOST="127.0.0.1", EKBO_PORT="0")
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert errors.splitlines()[-1] == (
        "CommandError: --workers 2: expected Redis, over which workers reach each other's sessions, found none; "
        "set EKBO_REDIS_URL, or leave --workers out"
    )


@pytest.mark.parametrize("count", ["0", "-1", "1.5", "two", "", "1025", "²"])
def test_a_count_of_workers_that_is_none(count: str) -> None:
    process = runproxy(f"--workers={count}")
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    expected = f"argument --workers: expected a whole number from 1 to 1024, found {count!r}"
    assert errors.splitlines()[-1].endswith(expected)


def test_one_worker_is_a_process_alone() -> None:
    """As without --workers: no supervisor, no Redis."""
    process = runproxy("--workers=1", EKBO_HOST="127.0.0.1", EKBO_PORT="0")
    assert process.stderr
    assert "INFO proxy.server listening on 127.0.0.1 port " in process.stderr.readline()
    assert Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text() == ""
    process.terminate()
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")


def test_a_host_that_is_none_is_named() -> None:
    process = runproxy(EKBO_HOST="999.1.1.1")
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("CommandError: can't listen on 999.1.1.1 port 9180: ")
    assert "Unknown error" not in errors


def test_a_unix_socket_that_somebody_removed_is_no_error_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"
    process = runproxy(EKBO_UNIX_DOMAIN_SOCKET_FILENAME=str(path))
    assert process.stderr
    assert f"listening on {path}" in process.stderr.readline()
    path.unlink()
    process.terminate()
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")


def test_a_misspelt_variable_is_said_at_the_start() -> None:
    process = runproxy(EKBO_HOST="127.0.0.1", EKBO_PORT="0", EKBO_CALLBAK_TIMEOUT="1s")
    assert process.stderr
    assert "EKBO_CALLBAK_TIMEOUT: no option reads this variable" in process.stderr.readline()
    assert "listening on" in process.stderr.readline()
    process.terminate()
    process.communicate(timeout=20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_port_0_takes_a_free_one_says_so_and_ends_with_0(number: signal.Signals) -> None:
    process = runproxy(EKBO_HOST="127.0.0.1", EKBO_PORT="0")
    assert process.stderr
    line = process.stderr.readline()
    assert "listening on 127.0.0.1 port " in line
    port = int(line.split()[-1])
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=10) as answer:
        assert answer.read() == b'{"result":"OK"}'
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in errors
