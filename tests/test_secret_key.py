"""The kept key: made once, by whoever comes first, and readable by its owner only."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.secret_key import kept_key


def test_it_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "kuiperbelt.key"
    key = kept_key(path)
    assert len(key) >= 64
    assert kept_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["kuiperbelt.key"]


def test_processes_that_start_together_have_the_same(tmp_path: Path) -> None:
    script = "import pathlib, sys; from proxy.secret_key import kept_key; print(kept_key(pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-c", script, str(tmp_path / "kuiperbelt.key")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(8)]
    assert len({process.communicate()[0] for process in processes}) == 1
    assert os.listdir(tmp_path) == ["kuiperbelt.key"]


@pytest.mark.parametrize("content", ["", "\xff"])
def test_a_file_without_key_is_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "kuiperbelt.key"
    path.write_text(content)
    assert kept_key(path) != kept_key(path)
    assert path.read_text() == content


def test_where_nothing_can_be_kept_the_key_is_new(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "kuiperbelt.key"
    assert kept_key(path) != kept_key(path)
