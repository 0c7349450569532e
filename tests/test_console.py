"""What commands have in common: text of others, ages, configuration and database errors, questions."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils.timezone import now

from proxy import __version__
from proxy.console import ago, in_words
from tests.operators import Registry, at_terminal, manage
from tests.servers import ROOT, free_port

COMMANDS = (("listsessions",), ("closesessions", "--all", "--no-input"), ("sendmessage", "bob", "hello"))


def test_ages() -> None:
    ages = {0: "0s", 59: "59s", 61: "1m01s", 3600: "1h00m", 90000: "1d01h", -5: "0s"}
    for seconds, expected in ages.items():
        assert ago(now() - timedelta(seconds=seconds)) == expected
    assert ago(None) == "-"


def test_numbers() -> None:
    assert [in_words(count, "session") for count in (0, 1, 2000)] == ["0 sessions", "1 session", "2,000 sessions"]


def test_manage_says_its_version_and_has_no_traceback() -> None:
    """Without the packages, and with a Ctrl-C before a command has begun."""
    interrupted = "import runpy, django.core.management as m\ndef stop(argv): raise KeyboardInterrupt\n"
    interrupted += "m.execute_from_command_line = stop\nrunpy.run_path('manage.py', run_name='__main__')"
    for arguments, status, output, errors in (
        (["manage.py", "--version"], 0, f"{__version__}\n", ""),
        (["-c", interrupted], 130, "", ""),
        (
            ["-S", "manage.py", "check"],
            1,
            "",
            "expected the packages of requirements.txt, found no django; run .venv/bin/python manage.py\n",
        ),
    ):
        done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (status, output, errors)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
async def test_a_database_without_tables(command: tuple[str, ...], tmp_path: Path) -> None:
    done = await manage(*command, env={"EKBO_DATABASE_URL": f"sqlite:///{tmp_path}/new.sqlite3"})
    assert done.status == 1
    assert done.errors.startswith(
        "CommandError: expected the proxy's tables in the database (EKBO_DATABASE_URL), found: no such table"
    )
    assert "manage.py migrate" in done.errors


async def test_a_database_that_is_not_there() -> None:
    url = f"postgresql://kb:hunter2@127.0.0.1:{free_port()}/kb"
    done = await manage("listsessions", env={"EKBO_DATABASE_URL": url})
    assert done.status == 1
    assert done.errors.startswith("CommandError: expected an answer from the database (EKBO_DATABASE_URL), found: conn")
    assert "hunter2" not in done.errors
    done = await manage("migrate", env={"EKBO_DATABASE_URL": url, "EKBO_CONNECT_CALLBACK_URL": "http://127.0.0.1:9/"})
    assert done.status == 1
    assert done.errors.startswith("expected an answer from the database (EKBO_DATABASE_URL), found: conn")


async def test_options() -> None:
    """Wrong ones are errors, misspelt ones are named, and no callback is needed."""
    done = await manage("listsessions", env={"EKBO_NODE_TIMEOUT": "long"})
    assert done.status == 1
    assert "EKBO_NODE_TIMEOUT: expected a duration like 0, 500ms, 10s or 1m30s, found 'long'" in done.errors
    done = await manage("listsessions", env={"EKBO_REGISTRY": "off", "EKBO_DATABASE_ULR": "sqlite:///x"})
    assert done.status == 1
    assert "EKBO_DATABASE_ULR: no option reads this variable" in done.errors
    assert "expected the registry of sessions, found it switched off (EKBO_REGISTRY)" in done.errors


async def test_questions(tmp_path: Path) -> None:
    registry = await Registry.embedded(tmp_path)
    node = await registry.node(endpoint=f"127.0.0.1:{free_port()}")
    await registry.sessions(["a", "b"], node)
    done = await manage("closesessions", "--all", env=registry.env)
    assert done.status == 1
    assert "Close 2 sessions? Expected somebody at a terminal to ask, found none; --no-input doesn't ask" in done.errors
    for typed in ("\n", "n\n"):
        done = await at_terminal("closesessions", "--all", env=registry.env, typed=typed)
        assert done.status == 1
        assert "Close 2 sessions? [y/N]" in done.output
        assert "nothing was done" in done.output
    done = await at_terminal("closesessions", "--all", env=registry.env, typed="yes\n")
    assert done.status == 2
    assert f"[{'#' * 30}] 2 of 2" in done.output
    assert "closed 0 of 2 sessions" in done.output
