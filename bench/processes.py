"""Processes of the bench: start them, find their trees, read their CPU time and memory, end them by pid (Linux)."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

PROJECT = Path(__file__).resolve().parent.parent
STOP_SECONDS = 5.0
TICKS = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """The bench can't measure: a process ended, stayed silent, or answered nonsense."""


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that was free just now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def clean_environment() -> dict[str, str]:
    """Return our environment less the proxy's own variables, so that no setting of the shell bends a measurement."""
    return {name: value for name, value in os.environ.items() if not name.startswith("EKBO_")}


def stat_fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from `state` (number 3 in proc(5)) on; empty if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def tree(root: int) -> list[int]:
    """Return the pids of a process and all its live descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := stat_fields(int(entry))):
            children.setdefault(int(fields[1]), []).append(int(entry))
    found = [root]
    for pid in found:  # grows while we walk it: breadth first
        found += children.get(pid, [])
    return found


def clocks(root: int) -> dict[int, float]:
    """Return the CPU time, user and system, of each process of a tree, all threads and reaped children included."""
    found = {}
    for pid in tree(root):
        with contextlib.suppress(OSError):  # it may end between listing and reading
            # clock_getcpuclockid(3) for a process: nanoseconds, where /proc/PID/stat counts in ticks of 10 ms.
            found[pid] = time.clock_gettime((~pid << 3) | 2)
            fields = stat_fields(pid)
            found[pid] += (int(fields[13]) + int(fields[14])) / TICKS if fields else 0.0
    return found


def cpu_seconds(root: int) -> float:
    """Return the CPU time that a process tree has used."""
    return sum(clocks(root).values())


def memory_kib(root: int, kind: str = "Pss") -> float:
    """Return the proportional set size of a process tree in KiB; kind "Pss_Anon": without what files are mapped."""
    total = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(f"{kind}:"):
                    total += int(line.split()[1])
    return float(total)


class Process:
    """A child process in a session of its own, so that Ctrl-C reaches only us and we end it in order."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], *, pipes: bool = False) -> None:
        self.command = " ".join([Path(command[0]).name, *command[1:]])  # it gets into docs/performance.json
        self.log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()
        self.popen = subprocess.Popen(
            command,
            cwd=PROJECT,
            env=dict(environment),
            stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else self.log,
            stderr=self.log,
            start_new_session=True,
        )
        self.pid = self.popen.pid

    def output(self) -> str:
        """Return the end of what the process has logged."""
        self.log.flush()
        size = os.fstat(self.log.fileno()).st_size
        return os.pread(self.log.fileno(), 4000, max(0, size - 4000)).decode(errors="replace")

    def fail(self, what: str) -> BenchError:
        """Make an error that names the process and shows the end of its log."""
        return BenchError(f"{what}: {self.command} (exit status {self.popen.poll()})\n{self.output()}")

    def read_line(self, seconds: float) -> str:
        """Return the next line of the process' standard output, waiting at most `seconds`."""
        assert self.popen.stdout is not None
        deadline = time.monotonic() + seconds
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self.popen.stdout], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self.popen.stdout.fileno(), 65536) if ready else b""
            if not chunk:
                raise self.fail(f"no answer within {seconds:.0f} s")
            line += chunk
        return line.decode()

    def ask(self, limit: float, **command: Any) -> dict[str, Any]:
        """Send a command to the process as a line of JSON and return its answer, waiting at most `limit` seconds."""
        assert self.popen.stdin is not None
        try:
            self.popen.stdin.write(json.dumps(command).encode() + b"\n")
            self.popen.stdin.flush()
        except OSError as error:
            raise self.fail("process has ended") from error
        answer: dict[str, Any] = json.loads(self.read_line(limit))
        if "error" in answer:
            raise self.fail(str(answer["error"]))
        return answer

    def wait(self, seconds: float) -> None:
        """Wait for the process to end; raise BenchError if it takes too long or fails."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(seconds)
        if self.popen.returncode != 0:
            raise self.fail(f"expected to end well within {seconds:.0f} s")

    def wait_ready(self, port: int, path: str, seconds: float = 30.0) -> None:
        """Wait until GET path answers 200 on 127.0.0.1:port."""
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.popen.poll() is not None:
                raise self.fail("server ended before it was ready")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as probe:
                probe.sendall(request)
                if b" 200 " in probe.recv(1000):
                    return
            time.sleep(0.05)
        raise self.fail(f"server not ready within {seconds:.0f} s")

    def stop(self) -> None:
        """End the process and its descendants by pid: politely, then after STOP_SECONDS for sure."""
        born = {pid: stat_fields(pid)[19:20] for pid in tree(self.pid)}
        if self.popen.stdin is not None:
            with contextlib.suppress(OSError):
                self.popen.stdin.close()
        if self.popen.poll() is None:
            self.popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(STOP_SECONDS)
        for pid, start_time in born.items():
            # The start time tells our process from a later one that was given the same pid.
            if start_time and stat_fields(pid)[19:20] == start_time:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        self.popen.wait(STOP_SECONDS)
        if self.popen.stdout is not None:
            self.popen.stdout.close()
        self.log.close()
