"""What becomes of a session, on its way to the database: `journal` collects it, `store` writes it."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Facts:
    """What is kept of a live session."""

    key: str
    address: str
    user_agent: str
    path: str
    query: str
    subprotocol: str
    endpoint: str
    connected_at: datetime


@dataclass(frozen=True, slots=True)
class Ended:
    """A session has ended, and the backend is to be told."""

    at: datetime
    code: int
    reason: str
    due: datetime
    """When it is to be told if it isn't done by then, by the process's clock; so is the other `due`."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """The backend couldn't be told."""

    count: int
    due: datetime
    error: str
    gave_up: bool


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be written about one connection."""

    connection: str
    facts: Facts | None = None
    ended: Ended | None = None
    attempt: Attempt | None = None
    done: bool = False
    """There is nothing more to tell: the row goes."""
