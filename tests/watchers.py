"""Watchers of sessions, over the API as it streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import quote

from tests.clients import TIMEOUT, Headers, Http
from tests.servers import Server

Report = dict[str, Any]


@dataclass
class Watch:
    """A running GET /sessions/KEY?watch."""

    http: Http
    seen: list[Report] = field(default_factory=list)
    _left: bytes = b""

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, server: Server, key: str, query: str = "watch", headers: Headers = ()) -> AsyncIterator[Self]:
        """From this very node or process; the answer has begun."""
        async with Http.open(server) as http:
            await http.write(http.encode("GET", f"/sessions/{quote(key, safe='')}?{query}", headers))
            async with asyncio.timeout(TIMEOUT):
                head = (await http.reader.readuntil(b"\r\n\r\n")).lower()
            assert head.startswith(b"http/1.1 200"), head
            assert b"application/x-ndjson" in head
            assert b"chunked" in head
            yield cls(http)

    async def line(self) -> bytes:
        """The next line; raises IncompleteReadError after the last one."""
        while b"\n" not in self._left:
            size = int(await self.http.reader.readuntil(b"\r\n"), 16)
            if not size:
                raise asyncio.IncompleteReadError(self._left, None)
            self._left += (await self.http.reader.readexactly(size + 2))[:-2]
        line, _, self._left = self._left.partition(b"\n")
        return line

    async def next(self, *whats: str, timeout: float = TIMEOUT) -> Report:
        """The next report, or the next of this kind; those before are in `seen`."""
        async with asyncio.timeout(timeout):
            while True:
                if line := await self.line():
                    report: Report = json.loads(line)
                    self.seen.append(report)
                    if not whats or report["what"] in whats:
                        return report


def bare(report: Report) -> Report:
    """A report without what differs from one run to the next."""
    return {name: value for name, value in report.items() if name not in ("at", "connection", "ms", "n")}
