"""A real Redis server of the bench's own, and what it says about its work. Used by bench.cluster."""

import contextlib
import socket
import time
from pathlib import Path

from .processes import BenchError, Process, clean_environment, free_port

READY_SECONDS = 10.0
ASK = b"INFO all\r\n"
COUNTERS = ("redis_in_bytes", "redis_out_bytes", "publishes", "subscribes")


class RedisServer(Process):
    """redis-server on a free port of 127.0.0.1, without persistence. Debian's package has it."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        address = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(folder)]
        try:
            super().__init__(["redis-server", *address, "--save", "", "--appendonly", "no"], clean_environment())
        except FileNotFoundError as error:
            raise BenchError("expected redis-server to be installed but did not find it") from error
        self.url = f"redis://127.0.0.1:{self.port}"
        self.asked = self.answered = 0  # bytes of our own questions and answers, which are not the proxy's

    def wait_listening(self) -> None:
        """Connect as soon as the server listens; raise BenchError if it never does."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self.popen.poll() is None:
            with contextlib.suppress(OSError):
                self.connection = socket.create_connection(("127.0.0.1", self.port), READY_SECONDS)
                self.reader = self.connection.makefile("rb")
                self.info()  # the first one makes buffers, which must not be taken for the proxy's
                return
            time.sleep(0.05)
        raise self.fail("redis-server does not listen")

    def info(self) -> dict[str, str]:
        """Return what INFO says, by name."""
        self.connection.sendall(ASK)
        head = self.reader.readline()
        if not head.startswith(b"$"):
            raise BenchError(f"expected a bulk reply to INFO but got {head!r}")
        body = self.reader.read(int(head[1:]) + 2)
        pairs = (line.partition(":") for line in body.decode().splitlines())
        found = {name: value for name, colon, value in pairs if colon}
        self.asked += len(ASK)
        self.own_output = self.answered  # this answer was not written yet when the server counted
        self.answered += len(head) + len(body)
        return found

    def counters(self) -> dict[str, float]:
        """Return COUNTERS, less our own share: bytes in and out, calls of PUBLISH and SUBSCRIBE; they only grow."""
        found = self.info()
        values = (
            int(found["total_net_input_bytes"]) - self.asked,
            int(found["total_net_output_bytes"]) - self.own_output,
            calls(found, "publish"),
            calls(found, "subscribe"),
        )
        return dict(zip(COUNTERS, values, strict=True))

    def memory(self) -> int:
        """Return the bytes that Redis' allocator has given out."""
        return int(self.info()["used_memory"])

    def stop(self) -> None:
        if hasattr(self, "connection"):
            self.reader.close()
            self.connection.close()
        super().stop()


def calls(info: dict[str, str], command: str) -> int:
    """Return how often a command was called."""
    fields = dict(field.split("=") for field in info.get(f"cmdstat_{command}", "calls=0").split(","))
    return int(fields["calls"])
