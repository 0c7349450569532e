"""Many clients at once, in a process of their own, so that what they cost doesn't spoil what the test measures.

`python -m tests.crowd PORT CLIENTS TRIES` prints what became of them as a JSON object, and keeps the connections of
those that got in until its stdin ends.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from dataclasses import asdict, dataclass, field

HANDSHAKE = (
    "GET /connect?key=crowd{number} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@dataclass
class Crowd:
    """What became of all."""

    answers: dict[str, int] = field(default_factory=lambda: {"101": 0, "503": 0})
    """By status; 0: no answer."""
    waits: dict[int, int] = field(default_factory=dict)
    """How often which Retry-After was answered, in seconds."""
    seconds: float = 0.0
    """Until the last one got in, or gave up."""

    async def run(self, port: int, clients: int, tries: int) -> list[asyncio.StreamWriter]:
        """All come at once; who is refused comes back when it is told to. The connections of those that got in."""
        began = asyncio.get_running_loop().time()
        found = await asyncio.gather(*(self._client(port, number, tries) for number in range(clients)))
        self.seconds = asyncio.get_running_loop().time() - began
        return [writer for writer in found if writer]

    async def _client(self, port: int, number: int, tries: int) -> asyncio.StreamWriter | None:
        address = f"127.0.0.{2 + number % 200}"
        for left in reversed(range(tries)):
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
                writer.write(HANDSHAKE.format(number=number).encode())
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
            except (OSError, asyncio.IncompleteReadError):
                self._count("0")
                return None
            status = head.split(" ", 2)[1]
            self._count(status)
            if status == "101":
                return writer
            writer.close()
            after = re.search(r"^retry-after: (\d+)\r$", head, re.MULTILINE | re.IGNORECASE)
            if not after:
                return None
            seconds = int(after[1])
            self.waits[seconds] = self.waits.get(seconds, 0) + 1
            if left:
                await asyncio.sleep(seconds)
        return None

    def _count(self, answer: str) -> None:
        self.answers[answer] = self.answers.get(answer, 0) + 1


async def main(port: int, clients: int, tries: int) -> None:
    crowd = Crowd()
    writers = await crowd.run(port, clients, tries)
    print(json.dumps(asdict(crowd)), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for writer in writers:
        writer.close()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
