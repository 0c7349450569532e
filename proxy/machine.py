"""The limits of this machine that matter: open files, somaxconn, local ports, memory. For `runproxy` and `doctor`."""

import re
import resource
from collections.abc import Iterator
from pathlib import Path

from proxy.conf import Options
from proxy.findings import Finding, failed, ok, skipped, warning
from proxy.listeners import BACKLOG

AREA = "limits"
SPARE_FILES = 200  # of a process beside its clients': callbacks, API, Redis, database, logs, what is loaded
CLIENTS = 4_000  # for which there should be room where max_connections doesn't say how many come
LOCAL_PORTS = 10_000
PROCESS_MEMORY = 64 << 20  # bytes of a process without clients (docs/performance.md)
CLIENT_MEMORY = 20 << 10  # bytes of a connection, the kernel's included (docs/scaling.md), and some more

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


def check(options: Options, workers: int = 1) -> Iterator[Finding]:
    """The limits of this process and of the kernel, for so many processes that serve."""
    yield open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0], options, "open files")
    yield _backlog()
    yield from _ports(options)
    yield _memory(options, workers)


def check_process(pid: int, options: Options) -> Finding:
    """The open-file limit of a process that runs: a service's is another one than that of a shell."""
    name = f"open files of process {pid}"
    try:
        found = re.search(r"^Max open files\s+(\w+)", (_PROC / str(pid) / "limits").read_text(), re.MULTILINE)
    except OSError as error:
        return skipped(AREA, name, f"can't be read: {error.strerror}")
    limit = found[1] if found else "unlimited"
    return open_files(int(limit) if limit.isdecimal() else resource.RLIM_INFINITY, options, name)


def open_files(limit: int, options: Options, name: str) -> Finding:
    """Is this limit of open files enough for the clients that may come to a process?"""
    clients = options.max_connections or CLIENTS
    need = clients + SPARE_FILES
    if limit == resource.RLIM_INFINITY or limit >= need:
        return ok(AREA, name, "no limit" if limit == resource.RLIM_INFINITY else f"{limit:,}")
    why = "max_connections" if options.max_connections else "max_connections isn't set"
    return warning(
        AREA,
        name,
        f"{need:,} or more, for {clients:,} clients ({why}) and what else is open",
        f"{limit:,}",
        f"Clients over about {max(0, limit - SPARE_FILES):,} can't connect. In a shell `ulimit -n 65536`; systemd: "
        "LimitNOFILE=65536; a container: --ulimit nofile=65536.",
    )


def _number(path: str) -> int | None:
    try:
        return int((_PROC / path).read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _backlog() -> Finding:
    limit = _number("sys/net/core/somaxconn")
    if limit is None:
        return skipped(AREA, "somaxconn", "not known on this system")
    if limit >= BACKLOG:
        return ok(AREA, "somaxconn", f"{limit:,}")
    return warning(
        AREA,
        "somaxconn",
        f"{BACKLOG:,} or more",
        f"{limit:,}",
        "So few handshakes may wait to be taken; when all clients come back at once, others are turned away. "
        f"`sysctl -w net.core.somaxconn={2 * BACKLOG}`, and in /etc/sysctl.d.",
    )


def _ports(options: Options) -> Iterator[Finding]:
    try:
        first, last = map(int, (_PROC / "sys/net/ipv4/ip_local_port_range").read_text().split())
    except (OSError, ValueError):
        yield skipped(AREA, "local ports", "not known on this system")
        return
    found, many = f"{first} to {last}", last - first + 1
    if many < LOCAL_PORTS:
        advice = "Callbacks may find no port to connect from. `sysctl -w net.ipv4.ip_local_port_range='32768 60999'`."
        yield warning(AREA, "local ports", f"{LOCAL_PORTS:,} or more", f"{many:,}, {found}", advice)
    else:
        yield ok(AREA, "local ports", found)
    ports = {"port": 0 if options.sock else options.port, "api_port": options.api_port or 0}
    for name, port in ports.items():
        if first <= port <= last:
            advice = "Before the proxy starts, an outgoing connection may have it. Take another, or reserve it: "
            advice += f"`sysctl -w net.ipv4.ip_local_reserved_ports={port}`."
            yield warning(AREA, name, f"a port that isn't among the local ports ({found})", str(port), advice)


def _memory(options: Options, workers: int) -> Finding:
    left = _memory_left()
    if left is None:
        return skipped(AREA, "memory", "not known on this system")
    need = workers * (PROCESS_MEMORY + options.max_connections * CLIENT_MEMORY)
    found = f"{left >> 20:,} MiB left"
    if left >= need:
        return ok(
            AREA,
            "memory",
            f"{found}, room for about {max(0, left - workers * PROCESS_MEMORY) // CLIENT_MEMORY:,} clients",
        )
    made = failed if left < workers * PROCESS_MEMORY else warning
    advice = (
        "The kernel ends processes when there is none. Give the machine or container more, or lower max_connections."
    )
    whom = f"{options.max_connections:,} clients of each process (max_connections)" if options.max_connections else "it"
    return made(AREA, "memory", f"{need >> 20:,} MiB for {whom}", found, advice)


def _memory_left() -> int | None:
    """Bytes that are left to this process: the machine's, or less by its control group."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", (_PROC / "meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    left = [int(found[1]) << 10] if found else []
    try:
        group = _CGROUP / (_PROC / "self/cgroup").read_text().partition("0::/")[2].strip()
        for level in [group, *group.parents]:
            if (limit := level / "memory.max").exists() and (most := limit.read_text().strip()).isdecimal():
                left.append(int(most) - int((level / "memory.current").read_text()))
    except (OSError, ValueError):
        pass  # no control groups of version 2
    return min(left, default=None)
