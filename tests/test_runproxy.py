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
    assert errors.splitlines()[-1] == f"CommandError: can't listen on port {port}: Address already in use"


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
