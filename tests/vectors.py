"""The contract as tables: what is configured, what is done, what must come of it, and what daphne gets instead.

Tables stand in `vectors_connect` and `vectors_api`; the test modules run every row on every server. Texts may hold
`{key}` (the session key of the test), `{a}`, `{b}`, `{x}` (keys of two connected sessions and of one that never was),
`{port}` and `{host}` (where the server listens), `{hostname}` (this machine) and `{backend}` (host and port).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pytest

from tests.backend import Answer
from tests.clients import Frame, Headers
from tests.servers import KINDS

Do = TypeVar("Do")
Expected = TypeVar("Expected")


class Same:
    """Daphne gets what the other servers get."""


SAME = Same()


@dataclass(frozen=True, kw_only=True)
class Case(Generic[Do, Expected]):
    """One row: `section` names the place in the contract, `daphne` is what daphne gets instead of `expected`."""

    name: str
    section: str
    env: Mapping[str, str] = field(default_factory=dict)
    do: Do
    expected: Expected
    daphne: Expected | Same

    def on(self, kind: str) -> Expected:
        """What this kind of server must do."""
        if kind == "daphne" and not isinstance(self.daphne, Same):
            return self.daphne
        return self.expected


def rows(*tables: list[Any]) -> pytest.MarkDecorator:
    """Parametrizes a test over every case of the tables on every kind of server, servers in the outer loop."""
    cases = [case for table in tables for case in table]
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), f"names of cases are not unique: {sorted(names)}"
    return pytest.mark.parametrize(
        ("case", "kind"),
        [pytest.param(case, kind, id=f"{case.name}-{kind}") for kind in KINDS for case in cases],
    )


def each_of(kinds: Sequence[str]) -> Any:
    """The fixture `kind` of the tests that run on each of these kinds of server."""

    @pytest.fixture(params=kinds, name="kind")
    def kind(request: pytest.FixtureRequest) -> str:
        name: str = request.param
        return name

    return kind


def filled(text: str, values: Mapping[str, str]) -> str:
    """`text` with each `{name}` replaced; other braces stay."""
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    return text


def filled_bytes(data: bytes, values: Mapping[str, str]) -> bytes:
    """The same for bytes."""
    return filled(data.decode("latin-1"), values).encode("latin-1")


def filled_headers(headers: Headers, values: Mapping[str, str]) -> list[tuple[str, str]]:
    """The same for header values."""
    return [(name, filled(value, values)) for name, value in headers]


@dataclass(frozen=True)
class Connect:
    """A client's opening handshake, and the answer that the backend has ready for it."""

    query: str = "key={key}"
    headers: Headers = ()
    without: tuple[str, ...] = ()
    """Handshake headers that are left out."""
    method: str = "GET"
    path: str = "/connect"
    answer: Answer | None = None


@dataclass(frozen=True)
class Opened:
    """101, then these frames first."""

    frames: tuple[Frame, ...] = ()
    subprotocol: str | None = None


@dataclass(frozen=True)
class Refused:
    """An answer other than 101."""

    status: int
    body: bytes | None = None
    """None: any."""
    headers: Mapping[str, str] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    """Headers that must not be there."""
    asked: bool = True
    """Whether the backend was asked."""


@dataclass(frozen=True)
class Seen:
    """What the backend sees of a handshake."""

    headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Values of all lines of each header; empty: there is none."""
    target: str | None = None


@dataclass(frozen=True)
class Call:
    """A request to the API while sessions `{a}` and `{b}` are connected."""

    headers: Headers = (("X-Kuiperbelt-Session", "{a}"),)
    body: bytes | None = b"hello"
    method: str = "POST"
    path: str = "/send"
    chunk: int = 0
    """Size of the chunks that the body is sent in; 0: with Content-Length."""


@dataclass(frozen=True)
class Ended:
    """A session's Close frame."""

    code: int
    reason: str = ""


@dataclass(frozen=True)
class Reply:
    """The answer of the API, and what came to the two sessions: nothing unless it is said."""

    status: int
    body: bytes | None = None
    """None: `{"errors":[{"error":TEXT}],"result":"NG"}` with any text."""
    headers: Mapping[str, str] = field(default_factory=dict)
    json: bool = True
    """False: the server itself answers, in its own words."""
    a: tuple[Frame, ...] = ()
    b: tuple[Frame, ...] = ()
    a_ended: Ended | None = None
    b_ended: Ended | None = None
