"""The unit under a real systemd: docs/deployment.md's lines in a new Debian, booted in a container (`make unit`).

Clients come back whenever they are closed, while the unit is reloaded, its processes are killed and it is stopped.
Needs root, mmdebstrap, systemd-nspawn and the network; it takes some three minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from websockets.exceptions import InvalidHandshake, InvalidMessage

from bench.processes import tree
from tests.backend import Backend
from tests.clients import client, ending
from tests.redis_servers import RedisServer, eventually
from tests.servers import ROOT, Server, free_port

PAGE = (ROOT / "docs/deployment.md").read_text()
PACKAGES = "python3,python3-venv,systemd-sysv,dbus,procps,ca-certificates"
KEY = "0123456789abcdef" * 2
SOURCES = next(
    name for name in ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list") if Path(name).exists()
)
SETTINGS = [name for name in ("/etc/pip.conf", "/etc/ssl/certs", "/etc/resolv.conf") if Path(name).exists()]
"""What packages are fetched by; the new Debian is given this machine's."""
CLIENTS = ("anna", "bert", "carl", "dora")


async def run(*command: str, **options: str) -> str:
    """What a command prints; its failure is an error."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env={**os.environ, **options}
    )
    output, _ = await process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(command)[:200]}: exit status {process.returncode}\n{output.decode()[-3000:]}")
    return output.decode().strip()


async def install(root: Path, options: dict[str, str]) -> None:
    """A new Debian, the repository in /opt/kuiperbelt, and the page's lines as root there."""
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    await run("mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", release, str(root), SOURCES)
    await run("sh", "-c", f"mkdir {root}/opt/kuiperbelt; git -C {ROOT} archive HEAD | tar x -C {root}/opt/kuiperbelt")
    (lines, *_) = re.findall(r"^```\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    pip = [f"--setenv={name}={value}" for name, value in os.environ.items() if name.startswith("PIP_")]
    await run(
        "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--resolv-conf=off", "-D", str(root), *pip,
        *(f"--bind-ro={each}" for each in SETTINGS), "sh", "-euc", lines,
    )  # fmt: skip
    file = root / "etc/kuiperbelt/kuiperbelt.env"
    text = file.read_text()
    for name, value in options.items():
        text = re.sub(rf"^{name}=.*\n", "", text, flags=re.MULTILINE) + f"{name}={value}\n"
    file.write_text(text)


class Machine:
    """The booted container."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.leader = str(tree(process.pid)[1])

    @classmethod
    @contextlib.asynccontextmanager
    async def booted(cls, root: Path) -> AsyncIterator[Machine]:
        process = await asyncio.create_subprocess_exec(
            "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--console=passive", "--boot", "-D", str(root),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            # With the older control groups a container's systemd isn't told that a unit's processes have ended.
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
        )  # fmt: skip
        await asyncio.sleep(2)  # it has a child then, which is systemd
        machine = cls(process)
        try:
            await machine("systemctl", "is-system-running", "--wait")
            yield machine
        finally:
            await machine("systemctl", "poweroff")
            await process.wait()

    async def __call__(self, *command: str) -> str:
        """Run a command in it."""
        path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
        return await run("nsenter", "--target", self.leader, "--all", "env", "-i", path, *command)

    async def says(self, text: str, times: int = 1) -> float:
        """Wait until the unit's journal has this."""

        async def it_does() -> bool:
            return (await self("journalctl", "--no-pager", "--unit=kuiperbelt")).count(text) >= times

        return await eventually(it_does, text, 60)

    async def shown(self, name: str) -> str:
        """A property of the unit."""
        return await self("systemctl", "show", "--value", f"--property={name}", "kuiperbelt")


async def comes_back(server: Server, key: str, ends: list[int | None], refused: list[str]) -> None:
    """A client that connects again whenever it is closed."""
    while True:
        try:
            async with client(server, key, ("Origin", "https://chat.example.com")) as connection:
                ends.append((await ending(connection, 600)).code)
        except (OSError, InvalidHandshake, InvalidMessage) as error:
            refused.append(repr(error))
            await asyncio.sleep(0.2)


async def trial(machine: Machine, server: Server, backend: Backend) -> None:
    """What the page says of the unit, one line for each."""
    await machine("systemctl", "enable", "--now", "kuiperbelt")
    await server.ready()
    print("security:", (await machine("systemd-analyze", "security", "--no-pager", "kuiperbelt")).splitlines()[-1])
    ends: list[int | None] = []
    refused: list[str] = []
    clients = [asyncio.create_task(comes_back(server, key, ends, refused)) for key in CLIENTS]
    await backend.until(lambda: all(backend.seen("/connect", key) for key in CLIENTS), "the clients")
    await machine("systemctl", "reload", "kuiperbelt")
    await machine.says("configuration: read anew", 3)
    print("reload: read anew by all three processes")
    (usr2,) = re.findall(r"`(systemctl kill .*?)`", PAGE)
    await machine(*usr2.split())
    took = await machine.says("replacing workers: done")
    assert not refused, refused
    assert ends == [1012] * len(CLIENTS), ends
    print(f"{usr2}: {took:.1f} s, nobody refused")
    worker = (await machine("pgrep", "--parent", await machine.shown("MainPID"))).split()[0]
    await machine("kill", "-9", worker)
    await machine.says("died of signal 9")
    await server.ready()
    assert await machine.shown("NRestarts") == "0"
    print("kill -9 of a worker: replaced")
    began = time.monotonic()
    await machine("kill", "-9", await machine.shown("MainPID"))
    await eventually(lambda: _is(machine, "NRestarts", "1"), "a restart")
    await server.ready()
    print(f"kill -9 of the main process: ready after {time.monotonic() - began:.1f} s")
    await asyncio.sleep(2)  # for the clients
    ends.clear()
    began = time.monotonic()
    await machine("systemctl", "stop", "kuiperbelt")
    took = time.monotonic() - began
    assert ends == [1012] * len(CLIENTS), ends
    assert (await machine.shown("Result"), await machine.shown("ExecMainStatus")) == ("success", "0")
    assert took < 15, took
    print(f"stop: {took:.1f} s, clients got 1012")
    for each in clients:
        each.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    for key in CLIENTS:
        assert backend.seen("/close", key), key
    print("close callbacks: told for each client")


async def _is(machine: Machine, name: str, value: str) -> bool:
    return await machine.shown(name) == value


async def main() -> None:
    """Install, boot, try, and leave nothing behind."""
    backend = Backend()
    await backend.start()
    port, api = free_port(), free_port()
    async with RedisServer.running(KEY) as redis:
        url = f"http://127.0.0.1:{backend.port}"
        options = {
            "EKBO_CONNECT_CALLBACK_URL": f"{url}/connect", "EKBO_CLOSE_CALLBACK_URL": f"{url}/close",
            "EKBO_PORT": str(port), "EKBO_API_PORT": str(api), "EKBO_API_HOST": "127.0.0.1", "EKBO_API_KEYS": KEY,
            "EKBO_SECRET_KEY": KEY, "EKBO_REDIS_URL": redis.url, "EKBO_MAX_CONNECTIONS": "900",
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder) / "root"
            await install(root, options)
            async with Machine.booted(root) as machine:
                server = Server("unit", options, port, Path(folder) / "log", machine.process)
                await trial(machine, server, backend)
    await backend.stop()


if __name__ == "__main__":
    asyncio.run(main())
