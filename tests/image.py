"""What a container engine does with examples/deploy/Dockerfile, step by step, where there is none: copy, run, start.

In a mount namespace and on a root of its own: this machine's, under an overlay. What it starts has that root
read-only, a user without rights, and this machine's network. Needs root, or user namespaces.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.servers import ROOT

DEPLOY = ROOT / "examples/deploy"
HOME = "/opt/kuiperbelt"
START_LIMIT = 120.0  # seconds for the steps

Step = tuple[str, str]

_SET_UP = r"""
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs "$WORK"
mkdir "$WORK/upper" "$WORK/work" "$WORK/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$WORK/upper,workdir=$WORK/work" "$WORK/root"
cd "$WORK/root"
for each in proc dev sys; do mount --rbind "/$each" "$each"; done
mkdir -p ".$HOME_DIR" opt/python usr/local/bin
mount --bind "$SOURCE" ".$HOME_DIR"
mount --bind "$PYTHON" opt/python
ln -sf /opt/python/bin/python3 usr/local/bin/python
if [ -n "$PACKAGES" ]; then mount --bind "$PACKAGES" ".$HOME_DIR/$PACKAGES_DIR"; fi
"""
_BUILD = (
    _SET_UP
    + r"""
exec chroot . sh -euc "cd $HOME_DIR; $RUN"
"""
)
_START = (
    _SET_UP
    + r"""
chroot . sh -euc "$RUN"
mkdir -p ".$DATA"
mount -t tmpfs -o mode=0700 tmpfs ".$DATA"
mount -t tmpfs tmpfs tmp
if [ -z "$UNPRIVILEGED" ]; then chown 10001:10001 ".$DATA"; fi
mount -o remount,bind,ro ".$HOME_DIR"
mount -o remount,bind,ro .
user="--reuid=10001 --regid=10001 --clear-groups --bounding-set=-all"
if [ -n "$UNPRIVILEGED" ]; then user=; fi
exec chroot . sh -euc 'cd "$0"; exec "$@"' "$HOME_DIR" \
    prlimit --nofile="$NOFILE" setpriv $user --inh-caps=-all --no-new-privs "$@"
"""
)


def steps() -> list[Step]:
    """The Dockerfile's instructions and their arguments."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    pairs = (line.partition(" ") for line in text.replace("\\\n", "").splitlines() if line)
    return [(name, rest.strip()) for name, _, rest in pairs]


def one(name: str) -> str:
    """The arguments of the last instruction of this name, which counts."""
    return [rest for each, rest in steps() if each == name][-1]


@dataclass
class Image:
    """What the first stage has made, and the second one's steps, which are done at each start."""

    directory: Path
    packages: str = ""
    """Where packages are that needn't be installed again; empty: pip has installed them."""

    @classmethod
    async def build(cls, directory: Path, whole: bool) -> Image:
        """Do the first stage's steps; unless `whole`, pip has nothing to do: the packages are those of the tests."""
        image = cls(directory, "" if whole else sysconfig.get_path("purelib"))
        image.source.mkdir()
        names = [name for name, _ in steps()]
        for name, rest in steps()[: names.index("FROM", 1)]:
            if name == "COPY":
                image._copy(*rest.split())
            elif name == "RUN":
                await image._run(rest)
        return image

    @property
    def source(self) -> Path:
        """The contents of /opt/kuiperbelt."""
        return self.directory / "source"

    def _copy(self, *names: str) -> None:
        *sources, target = names
        for name in sources:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, self.source / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, self.source / target)

    async def _run(self, line: str) -> None:
        if self.packages and "pip install" in line:
            venv, _, install = line.partition(" && ")
            assert "--require-hashes -r requirements.txt" in install
            await self._build(f"{venv} --without-pip")
        else:
            await self._build(line)

    async def _build(self, line: str) -> None:
        there = (self.source / self._packages_dir).exists()
        process = await self._in_root(_BUILD, {"RUN": line}, [], bind=there, stdout=asyncio.subprocess.PIPE)
        output, _ = await asyncio.wait_for(process.communicate(), START_LIMIT)
        assert process.returncode == 0, f"{line}:\n{output.decode()}"

    async def start(
        self, command: Sequence[str], env: Mapping[str, str], log: Path, data: str = "/data", nofile: int = 1024
    ) -> asyncio.subprocess.Process:
        """Start a command as the image's user; `data` is all that it may write. At most this machine's open files."""
        nofile = min(nofile, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        names = [name for name, _ in steps()]
        second = " && ".join(rest for name, rest in steps()[names.index("FROM", 1) :] if name == "RUN")
        given = {"RUN": second, "DATA": data, "NOFILE": f"{nofile}:{nofile}"}
        with log.open("ab") as output:
            return await self._in_root(_START, {**env, **given}, command, bind=True, stdout=output)

    @property
    def _packages_dir(self) -> str:
        return f".venv/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"

    async def _in_root(
        self, script: str, env: Mapping[str, str], arguments: Sequence[str], bind: bool, stdout: object
    ) -> asyncio.subprocess.Process:
        work = self.directory / "work"
        work.mkdir(exist_ok=True)
        root = os.getuid() == 0
        given = {
            "PATH": "/opt/python/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "LD_LIBRARY_PATH": "/opt/python/lib",  # a Python of shared libraries knows where they were only
            "WORK": str(work),
            "SOURCE": str(self.source),
            "PYTHON": sys.base_prefix,
            "PACKAGES": self.packages if bind else "",
            "PACKAGES_DIR": self._packages_dir,
            "HOME_DIR": HOME,
            "UNPRIVILEGED": "" if root else "1",
        }
        unshare = ["unshare", "--mount"] if root else ["unshare", "--user", "--map-root-user", "--mount"]
        return await asyncio.create_subprocess_exec(
            *unshare, "sh", "-c", script, "sh", *arguments,
            env=given | dict(env), stdin=asyncio.subprocess.DEVNULL, stdout=stdout, stderr=asyncio.subprocess.STDOUT,  # type: ignore[arg-type]
        )  # fmt: skip


def environment() -> dict[str, str]:
    """ENV."""
    return dict(pair.split("=", 1) for name, rest in steps() if name == "ENV" for pair in rest.split())


def health_check() -> list[str]:
    """HEALTHCHECK's command."""
    command = json.loads(one("HEALTHCHECK").partition(" CMD ")[2])
    assert command[0] == ".venv/bin/python"
    return [sys.executable, *command[1:]]
