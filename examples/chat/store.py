"""What the chat remembers, in one SQLite file that all workers share: messages, and who is connected.

Every public method is one transaction, so it makes no difference which worker process runs it.
"""

import os
import secrets
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

HISTORY = 50  # messages that a newcomer sees
KEPT_MESSAGES = 500
HANDSHAKE_TIME = 60.0  # seconds after /connect in which a session may be unknown to the proxy

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS message (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uid TEXT NOT NULL, name TEXT NOT NULL, nonce TEXT NOT NULL, text TEXT NOT NULL, sent_at REAL NOT NULL,
    UNIQUE (uid, nonce)
);
CREATE TABLE IF NOT EXISTS session (
    key TEXT PRIMARY KEY, uid TEXT NOT NULL, name TEXT NOT NULL, folded_name TEXT NOT NULL,
    created_at REAL NOT NULL, last_message INTEGER NOT NULL, online INTEGER NOT NULL DEFAULT 0
);
INSERT OR IGNORE INTO meta VALUES ('revision', '0');
"""


@dataclass(frozen=True, slots=True)
class User:
    uid: str
    """Random, one per login; says whose a message is even when two people bore the same name."""
    name: str


@dataclass(frozen=True, slots=True)
class Message:
    id: int
    uid: str
    name: str
    nonce: str
    """Chosen by the sender's page: it recognises its message, and sending it twice stores it once."""
    text: str
    sent_at: float


@dataclass(frozen=True, slots=True)
class Presence:
    revision: int
    """Grows with every change, so that a page can drop a list that was overtaken by a newer one."""
    people: tuple[User, ...]
    keys: tuple[str, ...]
    """Sessions to tell, those in mid-handshake included."""


class NameTakenError(Exception):
    """Somebody else is connected with this name."""

    def __init__(self, keys: list[str]) -> None:
        super().__init__("somebody else is connected with this name")
        self.keys = keys


def default_path() -> Path:
    """`CHAT_DATABASE`, or a file in a directory of this user's own below the system's temporary one."""
    if configured := os.environ.get("CHAT_DATABASE"):
        return Path(configured)
    directory = Path(tempfile.gettempdir()) / f"chat-demo-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    if directory.stat().st_uid != os.getuid():
        raise PermissionError(f"{directory} belongs to another user; name a file in CHAT_DATABASE")
    return directory / "chat.sqlite3"


class Store:
    """The database. Cheap to make; holds no connection between calls."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with closing(sqlite3.connect(path, timeout=10)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(SCHEMA)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        # IMMEDIATE: two workers that read before they write would otherwise fail instead of waiting.
        with closing(sqlite3.connect(self.path, timeout=10, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def secret(self) -> str:
        """The key that signs cookies and tokens: made once, the same in every worker."""
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO meta VALUES ('secret', ?)", (secrets.token_hex(32),))
            (value,) = db.execute("SELECT value FROM meta WHERE name = 'secret'").fetchone()
            return str(value)

    # Sessions: added by /connect, online from /establish to /close

    def add_session(self, user: User, key: str) -> list[Message]:
        """Remember a session that is about to connect; gives the history for its first frame."""
        with self._transaction() as db:
            if taken := _keys_of_others(db, user):
                raise NameTakenError(taken)
            history = _messages(db, "ORDER BY id DESC LIMIT ?", HISTORY)[::-1]
            last = history[-1].id if history else 0
            db.execute(
                "INSERT INTO session (key, uid, name, folded_name, created_at, last_message) VALUES (?, ?, ?, ?, ?, ?)",
                (key, user.uid, user.name, user.name.casefold(), time.time(), last),
            )
            return history

    def check_name(self, user: User) -> None:
        """Raises NameTakenError where `add_session` would."""
        with self._transaction() as db:
            if taken := _keys_of_others(db, user):
                raise NameTakenError(taken)

    def set_online(self, key: str) -> list[Message] | None:
        """The session can be reached; gives what was said since its history was read, None if it is unknown."""
        with self._transaction() as db:
            row = db.execute("SELECT last_message FROM session WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            db.execute("UPDATE session SET online = 1 WHERE key = ?", (key,))
            _bump(db)
            return _messages(db, "WHERE id > ? ORDER BY id", row[0])

    def user_of(self, key: str) -> User | None:
        with self._transaction() as db:
            row = db.execute("SELECT uid, name FROM session WHERE key = ?", (key,)).fetchone()
            return User(*row) if row else None

    def keys(self) -> list[str]:
        with self._transaction() as db:
            return [key for (key,) in db.execute("SELECT key FROM session")]

    def presence(self) -> Presence:
        with self._transaction() as db:
            (revision,) = db.execute("SELECT value FROM meta WHERE name = 'revision'").fetchone()
            people = db.execute("SELECT DISTINCT uid, name FROM session WHERE online ORDER BY folded_name").fetchall()
            keys = [key for (key,) in db.execute("SELECT key FROM session")]
            return Presence(int(revision), tuple(User(*row) for row in people), tuple(keys))

    def end_session(self, key: str) -> bool:
        """Forget a session; True if the list of who is online changed."""
        with self._transaction() as db:
            return _delete(db, db.execute("SELECT key, online FROM session WHERE key = ?", (key,)).fetchall())

    def end_sessions_of(self, user: User) -> list[str]:
        """Forget all sessions of a user; gives their keys."""
        with self._transaction() as db:
            rows = db.execute("SELECT key, online FROM session WHERE uid = ?", (user.uid,)).fetchall()
            _delete(db, rows)
            return [key for key, _ in rows]

    def forget(self, gone: Iterable[str]) -> bool:
        """Remove sessions that the proxy doesn't know; True if the list of who is online changed.

        A session in mid-handshake is not registered with the proxy yet, so it stays for a while.
        """
        with self._transaction() as db:
            rows: list[tuple[str, int]] = []
            for key in gone:
                rows += db.execute(
                    "SELECT key, online FROM session WHERE key = ? AND (online OR created_at < ?)",
                    (key, time.time() - HANDSHAKE_TIME),
                )
            return _delete(db, rows)

    # Messages

    def add_message(self, user: User, nonce: str, text: str) -> tuple[Message, bool]:
        """Store a message; gives it back and whether it is new (a page repeats what it got no echo for)."""
        with self._transaction() as db:
            new = db.execute(
                "INSERT OR IGNORE INTO message (uid, name, nonce, text, sent_at) VALUES (?, ?, ?, ?, ?)",
                (user.uid, user.name, nonce, text, time.time()),
            ).rowcount
            (message,) = _messages(db, "WHERE uid = ? AND nonce = ?", user.uid, nonce)
            db.execute("DELETE FROM message WHERE id <= ?", (message.id - KEPT_MESSAGES,))
            return message, bool(new)


def _messages(db: sqlite3.Connection, rest: str, *values: str | int) -> list[Message]:
    columns = "SELECT id, uid, name, nonce, text, sent_at FROM message "
    return [Message(*row) for row in db.execute(columns + rest, values)]


def _keys_of_others(db: sqlite3.Connection, user: User) -> list[str]:
    rows = db.execute(
        "SELECT key FROM session WHERE folded_name = ? AND uid != ? AND (online OR created_at >= ?)",
        (user.name.casefold(), user.uid, time.time() - HANDSHAKE_TIME),
    )
    return [key for (key,) in rows]


def _delete(db: sqlite3.Connection, rows: list[tuple[str, int]]) -> bool:
    db.executemany("DELETE FROM session WHERE key = ?", [(key,) for key, _ in rows])
    if changed := any(online for _, online in rows):
        _bump(db)
    return changed


def _bump(db: sqlite3.Connection) -> None:
    db.execute("UPDATE meta SET value = value + 1 WHERE name = 'revision'")
