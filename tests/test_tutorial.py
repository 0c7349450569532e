"""docs/tutorial.md, done as it stands but for ports: its file, its commands in order, and two real browser windows."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Page

from tests.browser import Watched, chromium
from tests.servers import free_port
from tests.test_readme import ready, run

ROOT = Path(__file__).parent.parent
TUTORIAL = (ROOT / "docs/tutorial.md").read_text()
BIN = Path(sys.executable).parent


class Steps:
    """The tutorial's blocks of commands, in its order, with ports of this test's own."""

    def __init__(self, port: int, backend_port: int, home: Path) -> None:
        self._ports = {"9180": str(port), "9181": str(backend_port)}
        self._left = re.findall(r"^```sh\n(.*?)^```", TUTORIAL, re.DOTALL | re.MULTILINE)
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("EKBO_")},
            "PYTHONPATH": str(home),
            "EKBO_DATABASE_URL": f"sqlite:///{home}/tutorial.sqlite3",
            "EKBO_PORT": str(port),
        }

    def ported(self, text: str) -> str:
        return re.sub("9180|9181", lambda found: self._ports[found[0]], text)

    def take(self) -> str:
        """The next block."""
        return self.ported(self._left.pop(0)).replace(".venv/bin/", f"{BIN}/")

    def done(self) -> bool:
        return not self._left

    async def check(self) -> None:
        """Run the next block's commands, one by one; what they print is what is shown under them."""
        for command, shown in re.findall(r"^([^#\n].*)\n((?:# .*\n)*)", self.take(), re.MULTILINE):
            status, output = await run(command, self.env)
            assert status == 0, command
            if shown:
                assert output.split() == shown.replace("# ", "").split(), command

    @asynccontextmanager
    async def running(self, port: int) -> AsyncIterator[None]:
        """The next block's last command serves until it is ended by Ctrl-C."""
        *exports, command = self.take().splitlines()
        variables = dict(line.removeprefix("export ").split("=", 1) for line in exports)
        self.env |= variables
        process = await asyncio.create_subprocess_exec(*command.split(), cwd=ROOT, env=self.env)
        try:
            await ready(port)
            yield
        finally:
            process.send_signal(signal.SIGINT)
            await asyncio.wait_for(process.wait(), 20)


async def shows(page: Page, *lines: str) -> None:
    """Wait until the page shows these lines, and no others."""
    expected = "".join(f"{line}\n" for line in lines)
    await page.wait_for_function("text => document.querySelector('pre').textContent === text", arg=expected)


async def say(page: Page, text: str) -> None:
    await page.fill("input", text)
    await page.keyboard.press("Enter")


async def test_the_tutorial(tmp_path: Path) -> None:
    port, backend_port = free_port(), free_port()
    steps = Steps(port, backend_port, tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```", TUTORIAL, re.DOTALL | re.MULTILINE)
    (tmp_path / "tutorial.py").write_text(steps.ported(code))
    first, second = re.findall(r"<(http://127\.0\.0\.1:9181/\?name=\w+)>", TUTORIAL)

    # Here all that the files name is installed, in just these versions, or pip would miss something.
    make, *installs = steps.take().splitlines()
    assert make == "python3 -m venv .venv"
    made = f"cd {tmp_path} && {make.replace('python3', sys.executable)} && test -x .venv/bin/pip"
    assert (await run(made, steps.env))[0] == 0
    for line in installs:
        status, output = await run(f"{line} --no-index", steps.env)
        assert status == 0, output

    async with steps.running(backend_port), steps.running(port), chromium() as browser:
        await steps.check()
        ann, bob = await browser.new_page(), await browser.new_page()
        watched = [Watched(ann), Watched(bob)]
        await ann.goto(steps.ported(first))
        await shows(ann, "welcome, ann")
        await bob.goto(steps.ported(second))
        await shows(bob, "welcome, bob")
        await say(ann, "hi bob")
        await shows(bob, "welcome, bob", "ann: hi bob")
        await say(bob, "hi ann")
        said = ["ann: hi bob", "bob: hi ann"]
        await shows(ann, "welcome, ann", *said)

        await steps.check()
        await shows(ann, "welcome, ann", *said, "psst, ann", "dinner is ready")
        await ann.close()
        said = ["welcome, bob", *said, "dinner is ready", "ann has gone: client"]
        await shows(bob, *said)

        ann = await browser.new_page()
        watched.append(Watched(ann))
        await ann.goto(steps.ported(first))
        await shows(ann, "welcome, ann")
        await steps.check()
        await shows(ann, "welcome, ann", "good bye", "closed: 4000 enough")
        await steps.check()
        await steps.check()
        await shows(bob, *said, "ann: kuiperbelt-check", "ann has gone: client")
        assert not [trouble for page in watched for trouble in page.troubles]
    assert steps.done()


def test_what_it_shows_is_what_is_tested() -> None:
    """The blocks of what a browser shows are those that the test above waits for."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", TUTORIAL, re.DOTALL | re.MULTILINE)
    assert [text for language, text in blocks if not language] == [
        "welcome, ann\nann: hi bob\nbob: hi ann\n",
        "ann has gone: client\n",
        "welcome, ann\ngood bye\nclosed: 4000 enough\n",
        "ann: kuiperbelt-check\nann has gone: client\n",
    ]
