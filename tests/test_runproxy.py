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


def runproxy(**environ: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "manage.py", "runproxy"],
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
    assert errors.splitlines()[-1] == f"CommandError: can't listen on 127.0.0.1 port {port}: Address already in use"


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
