"""Fixtures of the contract tests: one backend, the servers, and fresh session keys."""

from __future__ import annotations

import itertools
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser

from proxy import registry
from tests.backend import Backend
from tests.browser import chromium
from tests.redis_servers import RedisServer
from tests.servers import KINDS, Servers
from tests.vectors import each_of


class _Complaints(logging.Handler):
    """What asyncio says of this process: a task that was destroyed, an exception that nobody retrieved."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture(scope="session")
def _complaints() -> Iterator[_Complaints]:
    handler = _Complaints()
    logging.getLogger("asyncio").addHandler(handler)
    yield handler
    logging.getLogger("asyncio").removeHandler(handler)


@pytest.fixture(autouse=True)
def asyncio_is_content(_complaints: _Complaints) -> Iterator[None]:
    """Fails a test during which asyncio logged an error in this process."""
    _complaints.lines.clear()
    yield
    assert not _complaints.lines, "\n\n".join(_complaints.lines)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_works() -> None:
    """Run in the background by a shell, tests ignore SIGINT, and the commands that they start would as well."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
async def backend() -> AsyncIterator[Backend]:
    """The recording backend that every server calls."""
    backend = Backend()
    await backend.start()
    yield backend
    await backend.stop()


@pytest.fixture(scope="session")
async def servers(
    backend: Backend, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Servers]:
    """All running proxies. What they print while they are shut down counts as well."""
    servers = Servers(backend, tmp_path_factory.mktemp("servers"), redis.url)
    yield servers
    await servers.stop()
    complaints = servers.complaints()
    assert not complaints, "\n\n".join(complaints)


@pytest.fixture(scope="session", autouse=True)
async def registry_ends() -> AsyncIterator[None]:
    """Whatever test began a registry in this process: it ends with the session."""
    yield
    await registry.shut_down()


@pytest.fixture(scope="session")
async def redis() -> AsyncIterator[RedisServer]:
    """A Redis for tests that leave it as it is; `RedisServer.running` is for those that kill, stop or configure it."""
    async with RedisServer.running() as server:
        yield server


@pytest.fixture(scope="module")
async def clean_logs(servers: Servers) -> AsyncIterator[None]:
    """Fails a module during which a server logged a traceback or answered 500."""
    yield
    complaints = servers.complaints()
    assert not complaints, "\n\n".join(complaints)


kind = each_of(KINDS)


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    """A real one, with an empty profile."""
    async with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go, to be looked at: PICTURES, or a directory that pytest keeps for a while."""
    directory = Path(os.environ.get("PICTURES") or tmp_path_factory.mktemp("pictures"))
    directory.mkdir(parents=True, exist_ok=True)
    print(f"screenshots: {directory}")
    return directory


@pytest.fixture(scope="session")
def fresh() -> Callable[[str], str]:
    """Makes short session keys that no other test uses."""
    numbers = itertools.count(0x1000)

    def make(name: str) -> str:
        return f"{name}{next(numbers):x}"

    return make


@pytest.fixture
def key(fresh: Callable[[str], str]) -> str:
    """A session key that no other test uses."""
    return fresh("k")


@pytest.fixture
async def private() -> AsyncIterator[RedisServer]:
    """A Redis server that only this test uses, and may end."""
    async with RedisServer.running() as server:
        yield server
