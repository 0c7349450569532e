"""The commands of the README, docs/servers.md and docs/commands.md, run as they stand but for the ports."""

import asyncio
import os
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from websockets.asyncio.client import connect

from tests.clients import client
from tests.operators import registered
from tests.servers import Servers, free_port

ROOT = Path(__file__).parent.parent
RUN = (
    "make run",
    "python3 -m venv .venv",
    "python3 examples/hello.py",
    "export EKBO_CONNECT_CALLBACK_URL=http://127.0.0.1:9181/connect",
    '.venv/bin/websockets "ws://127.0.0.1:9180/connect?user=bob"',
    "curl -H 'X-Kuiperbelt-Session: bob' -d 'hello' http://127.0.0.1:9180/send",
)
"""How the README's blocks of commands begin, each of which is run here."""


def blocks(page: str = "README.md") -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def test_every_block_is_run() -> None:
    assert tuple(block.partition("\n")[0] for block in blocks()) == RUN


async def test_make_run() -> None:
    """What it starts once all is set up is what test_demo.py starts."""
    status, output = await run("make --no-print-directory --dry-run --old-file=.venv/run.stamp run")
    assert (status, output) == (0, ".venv/bin/python examples/chat/run.py\n")


def test_the_setup_is_the_tutorial_s() -> None:
    """Where it is run."""
    (setup,) = [block for block in blocks() if "venv .venv" in block]
    (tutorial,) = [block for block in blocks("docs/tutorial.md") if "venv .venv" in block]
    assert tutorial.startswith(setup)


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


async def run(command: str, env: Mapping[str, str] | None = None) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_shell(
        command, cwd=ROOT, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def typed(port: int) -> None:
    """Type a line into the README's third terminal, and end it by Ctrl-D."""
    (line,) = [block for block in blocks() if "bin/websockets" in block]
    command = line.replace("9180", str(port)).replace(
        ".venv/bin/websockets", f"{Path(sys.executable).parent}/websockets"
    )
    process = await asyncio.create_subprocess_shell(
        command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin
    process.stdin.write(b"typed\n")
    assert process.stdout
    async with asyncio.timeout(10):
        async for shown in process.stdout:
            if b"hello bob" in shown:
                process.stdin.close()
        assert await process.wait() == 0
    assert process.stdin.is_closing()


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
        assert backend.stdout
        await typed(port)
        assert await asyncio.wait_for(backend.stdout.readline(), 5) == b"/receive bob typed\n"
        assert await asyncio.wait_for(backend.stdout.readline(), 5) == b"/close bob \n"
        async with connect(f"ws://127.0.0.1:{port}/connect?user=bob") as bob:
            assert await bob.recv() == "hello bob"
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
    (line,) = [line for block in blocks("docs/servers.md") for line in block.splitlines() if "bin/daphne" in line]
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
    (block,) = blocks("docs/commands.md")
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
