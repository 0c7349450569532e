"""The README's commands, run as they stand but for the ports: the hello backend, the proxy, and every curl line."""

import asyncio
import os
import re
import socket
import sys
from pathlib import Path

from websockets.asyncio.client import connect

from tests.clients import client
from tests.operators import registered
from tests.servers import Servers, free_port

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks() -> list[str]:
    return re.findall(r"```sh\n(.*?)```", README, re.DOTALL)


def curl_lines() -> list[tuple[str, str]]:
    """Each curl command with the lines of the answer that the README shows under it."""
    (block,) = [block for block in blocks() if "/send" in block]
    return re.findall(r"^(.*curl .*)\n((?:# .*\n)*)", block, re.MULTILINE)


async def ready(port: int) -> None:
    for _ in range(100):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return
    raise AssertionError(f"nobody listens on port {port}")


async def run(command: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_shell(
        command, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_try_it_by_hand() -> None:
    port, backend_port = free_port(), free_port()
    (exports,) = [block for block in blocks() if "EKBO_CONNECT_CALLBACK_URL" in block and "runproxy" in block]
    environ = dict(re.findall(r"export (\w+)=(\S+)", exports.replace("9181", str(backend_port))))
    assert set(environ) >= {"EKBO_CONNECT_CALLBACK_URL", "EKBO_RECEIVE_CALLBACK_URL", "EKBO_CLOSE_CALLBACK_URL"}
    assert any("python3 examples/hello.py" in block for block in blocks())
    backend = await asyncio.create_subprocess_exec(
        sys.executable, "examples/hello.py", str(backend_port), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    proxy = await asyncio.create_subprocess_exec(
        sys.executable, "manage.py", "runproxy", cwd=ROOT, env={**os.environ, **environ, "EKBO_PORT": str(port)}
    )
    try:
        await ready(port)
        await ready(backend_port)
        async with connect(f"ws://127.0.0.1:{port}/connect?user=bob") as bob:
            assert await bob.recv() == "hello bob"
            await bob.send("typed")
            assert backend.stdout
            assert await asyncio.wait_for(backend.stdout.readline(), 5) == b"/receive bob typed\n"
            lines = curl_lines()
            assert len(lines) == 7
            for command, expected in lines:
                status, output = await run(command.replace("9180", str(port)))
                assert status == 0, command
                assert not expected or output.split() == expected.replace("# ", "").split(), command
            assert [await bob.recv() for _ in range(5)] == ["hello", "hello all", b"\x01\x02", "one", "good bye"]
            await bob.wait_closed()
            assert bob.close_code == 4000
    finally:
        for process in (proxy, backend):
            process.terminate()
            await process.wait()


async def test_the_daphne_line() -> None:
    port, backend_port = free_port(), free_port()
    (line,) = [line for block in blocks() for line in block.splitlines() if "bin/daphne" in line]
    flags = line.split()[1:]
    flags[flags.index("9180")] = str(port)
    environ = {"EKBO_CONNECT_CALLBACK_URL": f"http://127.0.0.1:{backend_port}/connect"}
    backend = await asyncio.create_subprocess_exec(sys.executable, "examples/hello.py", str(backend_port), cwd=ROOT)
    proxy = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "daphne", *flags, cwd=ROOT, env={**os.environ, **environ}
    )
    try:
        await ready(port)
        await ready(backend_port)
        async with connect(f"ws://127.0.0.1:{port}/connect?user=bob") as bob:
            assert await bob.recv() == "hello bob"
    finally:
        for process in (proxy, backend):
            process.terminate()
            await process.wait()


async def test_commands(servers: Servers, tmp_path: Path) -> None:
    (block,) = [block for block in blocks() if "manage.py listsessions" in block]
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    server = await servers.start("uvicorn")
    async with client(server, "bob") as bob:
        await registered(server, "bob")
        for line in block.splitlines():
            changed = line.replace(".venv/bin/python", sys.executable).replace("web1", socket.gethostname())
            process = await asyncio.create_subprocess_shell(
                changed.replace("picture.png", str(tmp_path / "picture.png")), cwd=ROOT, env=server.env
            )
            assert await process.wait() == 0, line
        assert [await bob.recv() for _ in range(3)] == ["back in five minutes", b"\x89PNG", "good bye"]
        await bob.wait_closed()
        assert bob.close_code == 4000
    await server.stop()


async def test_every_command_is_in_the_table() -> None:
    commands = [path.stem for path in (ROOT / "proxy/management/commands").glob("*.py")]
    for command in commands:
        assert command in ("__init__", "runproxy") or f"\n| `{command} " in README or f"\n| `{command}`" in README
