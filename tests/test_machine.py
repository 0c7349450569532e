"""The machine's limits, as the kernel's files have them. What a real process with a low limit hears: test_doctor."""

import os
import resource
from pathlib import Path

import pytest

from proxy import machine
from proxy.conf import Options
from proxy.findings import Finding, State

MEMINFO = "MemTotal:       16331556 kB\nMemFree:          324444 kB\nMemAvailable:    {} kB\nBuffers:  0 kB\n"


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a kernel as it is by default, of a machine with 8 GiB that are free."""
    files = {
        "sys/net/core/somaxconn": "4096\n",
        "sys/net/ipv4/ip_local_port_range": "32768\t60999\n",
        "meminfo": MEMINFO.format(8 << 20),
        "self/cgroup": "0::/system.slice/kuiperbelt.service\n",
    }
    for name, text in files.items():
        (tmp_path / "proc" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "proc" / name).write_text(text)
    (tmp_path / "cgroup/system.slice/kuiperbelt.service").mkdir(parents=True)
    monkeypatch.setattr(machine, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path / "cgroup")
    return tmp_path


def found(options: Options, workers: int = 1) -> dict[str, Finding]:
    return {finding.name: finding for finding in machine.check(options, workers)}


def test_this_machine() -> None:
    """Whatever it has, it is read."""
    for finding in found(Options()).values():
        assert finding.state is not State.SKIPPED, finding
    mine = machine.check_process(os.getpid(), Options())
    assert mine.found == f"{resource.getrlimit(resource.RLIMIT_NOFILE)[0]:,}"
    assert machine.check_process(2**22 + 1, Options()).state is State.SKIPPED


def test_defaults_are_well(kernel: Path) -> None:
    findings = found(Options())
    del findings["open files"]
    assert {finding.state for finding in findings.values()} == {State.OK}, findings


@pytest.mark.parametrize(
    ("limit", "clients", "state"),
    [
        (1024, 0, State.WARNING),
        (4200, 0, State.OK),
        (1024, 824, State.OK),
        (1024, 825, State.WARNING),
        (resource.RLIM_INFINITY, 1_000_000, State.OK),
    ],
)
def test_open_files(limit: int, clients: int, state: State) -> None:
    assert machine.open_files(limit, Options(max_connections=clients), "open files").state is state


def test_short_backlog(kernel: Path) -> None:
    (kernel / "proc/sys/net/core/somaxconn").write_text("128\n")
    finding = found(Options())["somaxconn"]
    assert (finding.state, finding.text) == (State.WARNING, "somaxconn: expected 2,048 or more, found 128")
    assert "sysctl -w net.core.somaxconn=4096" in finding.advice


def test_few_ports_and_one_of_ours(kernel: Path) -> None:
    (kernel / "proc/sys/net/ipv4/ip_local_port_range").write_text("9000 12000\n")
    findings = found(Options(api_port=9181))
    assert {findings[name].state for name in ("local ports", "port", "api_port")} == {State.WARNING}
    assert "port" not in found(Options(sock="/run/x.sock"))


def test_memory(kernel: Path) -> None:
    assert found(Options(max_connections=100_000), 2)["memory"].state is State.OK
    assert found(Options(max_connections=1_000_000), 1)["memory"].state is State.WARNING
    (kernel / "proc/meminfo").write_text(MEMINFO.format(10 << 10))
    assert found(Options())["memory"].state is State.FAILED


def test_memory_of_a_container(kernel: Path) -> None:
    """Its own limit counts, or that of the group around it."""
    (kernel / "cgroup/system.slice/kuiperbelt.service/memory.max").write_text("max\n")
    (kernel / "cgroup/system.slice/memory.max").write_text(f"{512 << 20}\n")
    (kernel / "cgroup/system.slice/memory.current").write_text(f"{112 << 20}\n")
    assert found(Options())["memory"].found.startswith("400 MiB left")


def test_another_kernel(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_PROC", kernel / "nothing")
    findings = found(Options())
    assert {findings[name].state for name in ("somaxconn", "local ports", "memory")} == {State.SKIPPED}
