"""A proxy with a database of its own, and staff who use its admin in a browser."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, StorageState

from tests.browser import DESK, Watched
from tests.databases import migrated_file
from tests.servers import ROOT, Server, Servers

PASSWORD = "a long enough pass phrase"

STAFF = """
from django.contrib.auth.models import Permission, User
for name, permissions in (("viewer", ["view_session", "view_closeevent", "view_node"]), ("nobody", [])):
    user = User.objects.create_user(name, password=PASSWORD, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
User.objects.create_superuser("ada", password=PASSWORD)
"""


@dataclass
class Site:
    """A proxy whose database the test reads and writes too, by scripts in processes of their own."""

    server: Server
    env: Mapping[str, str]
    logins: dict[str, StorageState] = field(default_factory=dict)
    """Cookies of those who have logged in, which takes a while."""

    @property
    def url(self) -> str:
        return f"http://{self.server.host}/admin/"

    def run(self, script: str, **names: Any) -> str:
        """What a script prints that has the models, and these names."""
        return run_script(self.env, script, **names)

    @asynccontextmanager
    async def staff(self, browser: Browser, name: str = "ada") -> AsyncIterator[Page]:
        """Somebody who is logged in; fails if anything went wrong in their pages."""
        context = await browser.new_context(viewport=DESK, storage_state=self.logins.get(name))
        try:
            page = await context.new_page()
            watched = Watched(page)
            await page.goto(self.url)
            if name not in self.logins:
                await page.get_by_label("Username").fill(name)
                await page.get_by_label("Password").fill(PASSWORD)
                await page.get_by_role("button", name="Log in").click()
            await page.get_by_role("button", name="Log out").wait_for()
            self.logins[name] = await context.storage_state()
            yield page
            assert watched.troubles == []
        finally:
            await context.close()


def script_env(env: Mapping[str, str]) -> dict[str, str]:
    """The environment of a script, or of manage.py, with these options."""
    outer = {name: value for name, value in os.environ.items() if not name.startswith("EKBO_")}
    needed = {"EKBO_CONNECT_CALLBACK_URL": "http://127.0.0.1:9/", "DJANGO_SETTINGS_MODULE": "kbproject.settings"}
    return outer | needed | dict(env)


def run_script(env: Mapping[str, str], script: str, **names: Any) -> str:
    head = "import json, sys, uuid\nfrom datetime import timedelta\nfrom django.utils import timezone\n"
    head += "from proxy.models import *\nglobals().update(json.loads(sys.stdin.read()))\n"
    setup = "import django; django.setup()\n"
    done = subprocess.run(
        [sys.executable, "-c", setup + head + script],
        input=json.dumps(names), env=env, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def staffed_file() -> Path:
    """An embedded database with staff, made once, to be copied.

    The user ada may do all, viewer may look, nobody may do nothing.
    """
    file = migrated_file().with_name("staffed.sqlite3")
    shutil.copyfile(migrated_file(), file)
    run_script(script_env({"EKBO_DATABASE_URL": f"sqlite:///{file}"}), STAFF, PASSWORD=PASSWORD)
    return file


def migrate(env: Mapping[str, str]) -> None:
    subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], env=env, cwd=ROOT, check=True)


@asynccontextmanager
async def running_site(servers: Servers, directory: Path, kind: str = "uvicorn", **env: str) -> AsyncIterator[Site]:
    """A new proxy with the staff of `staffed_file`."""
    # Rows of nodes that aren't there are left alone for as long as the tests look at them.
    own = {"EKBO_DATABASE_URL": f"sqlite:///{directory}/kuiperbelt.sqlite3", "EKBO_NODE_TIMEOUT": "1h"} | env
    await asyncio.to_thread(shutil.copyfile, staffed_file(), directory / "kuiperbelt.sqlite3")
    server = await servers.start(kind, own)
    try:
        yield Site(server, script_env(own))
    finally:
        await server.stop()
