"""What each peer is: a system whose program must be installed, and some of them by `go install`."""

import os
import re
import shutil
import subprocess

from ..system import System


def find(program: str) -> str | None:
    """Return the path of a program on PATH or where `go install` puts it."""
    go_folders = [os.environ.get("GOBIN"), *[f"{path}/bin" for path in os.environ.get("GOPATH", "").split(":") if path]]
    places = [os.environ.get("PATH"), *go_folders, os.path.expanduser("~/go/bin")]
    return shutil.which(program, path=os.pathsep.join(place for place in places if place))


class Peer(System):
    """A server that must be installed first."""

    program: str
    install: str

    def missing(self) -> str:
        return "" if find(self.program) else f"{self.program} is neither on PATH nor in Go's folder: {self.install}"

    def path(self) -> str:
        """Return where its program is."""
        return find(self.program) or self.program


class GoPeer(Peer):
    """A peer that `go install` builds."""

    module: str

    def __init__(self) -> None:
        self.install = f"go install {self.module}@latest"

    def versions(self) -> dict[str, str]:
        """Return the version of its module, and of Go, as the program itself has them written down."""
        if not shutil.which("go"):
            return {self.name: "?"}
        said = subprocess.run(["go", "version", "-m", self.path()], capture_output=True, text=True, check=True).stdout
        module = re.search(r"\n\tmod\t\S+\t(\S+)", said)
        return {self.name: f"{module[1] if module else '?'} ({said.splitlines()[0].rpartition(' ')[2]})"}
