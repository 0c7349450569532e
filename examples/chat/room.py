"""The chat itself: who may come in, what is said, and the frames that pages get for it.

Called by the page's routes (app) and by the proxy's callbacks (callbacks); writes to the store, then pushes.
"""

import json
import logging
import re
import secrets
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict

from examples.chat.push import Proxy, ProxyError
from examples.chat.store import Message, NameTakenError, Store, User

MAX_NAME = 32  # characters
MAX_TEXT = 1000  # characters
NONCE = re.compile(r"[A-Za-z0-9-]{1,64}")
LOGGED_OUT = 4100  # close codes of 4000 and up are the application's
UNKNOWN_SESSION = 4101

log = logging.getLogger(__name__)


class InvalidError(ValueError):
    """What a user typed can't be taken; the text says why and is meant for them."""


def clean_name(name: str) -> str:
    """The name as others will see it. Raises InvalidError."""
    name = " ".join(unicodedata.normalize("NFKC", name).split())
    if not name:
        raise InvalidError("Please type a name.")
    if len(name) > MAX_NAME:
        raise InvalidError(f"A name has at most {MAX_NAME} characters; this one has {len(name)}.")
    if not name.isprintable():
        raise InvalidError("A name can't have invisible characters.")
    return name


def clean_text(text: object) -> str:
    """The message as others will see it. Raises InvalidError."""
    text = text.replace("\r\n", "\n").strip() if isinstance(text, str) else ""
    if not text:
        raise InvalidError("The message is empty.")
    if len(text) > MAX_TEXT:
        raise InvalidError(f"A message has at most {MAX_TEXT} characters; this one has {len(text)}.")
    # Cc: control characters, Cs: halves of characters, which UTF-8 can't express
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text if character not in "\n\t"):
        raise InvalidError("The message has control characters.")
    return text


class Room:
    """Everything that is more than one call of the store or of the proxy."""

    def __init__(self, store: Store, proxy: Proxy) -> None:
        self.store = store
        self.proxy = proxy

    def check_name(self, user: User) -> None:
        """Raises NameTakenError if somebody else is connected with this name."""
        try:
            self.store.check_name(user)
        except NameTakenError as taken:
            # They may have gone without a word (the proxy was killed): ask it, then look again.
            self._announce_to(taken.keys)
            self.store.check_name(user)

    def enter(self, user: User) -> tuple[str, str]:
        """A page asks to connect: gives its session key and first frame. Raises NameTakenError."""
        key = secrets.token_urlsafe(16)
        self.check_name(user)
        history = self.store.add_session(user, key)
        return key, _frame("history", you=asdict(user), messages=[asdict(message) for message in history])

    def arrive(self, key: str) -> bool:
        """The session can be reached from now on; False if it is unknown."""
        missed = self.store.set_online(key)
        if missed is None:
            return False
        for message in missed:
            self._send([key], _message_frame(message))
        self.announce()
        return True

    def leave(self, key: str) -> None:
        if self.store.end_session(key):
            self.announce()

    def log_out(self, user: User) -> None:
        """Close every page of this user. The proxy reports no closing that the backend asked for."""
        keys = self.store.end_sessions_of(user)
        try:
            self.proxy.close(keys, LOGGED_OUT, "logged out")
        except ProxyError as error:
            log.warning("%s", error)
        self.announce()

    def hear(self, key: str, frame: str) -> bool:
        """Take what a page sent; False if its session is unknown."""
        user = self.store.user_of(key)
        if user is None:
            # The database is new or was emptied: the page shall connect again, and be known.
            try:
                self.proxy.close([key], UNKNOWN_SESSION, "unknown session")
            except ProxyError as error:
                log.warning("%s", error)
            return False
        nonce = ""
        try:
            nonce, text = _parse(frame)
            text = clean_text(text)
        except InvalidError as error:
            self._send([key], _frame("refused", nonce=nonce, reason=str(error)))
            return True
        message, new = self.store.add_message(user, nonce, text)
        self._send(self.store.keys() if new else [key], _message_frame(message))
        return True

    def announce(self) -> None:
        """Tell everybody who is online."""
        self._announce_to(None)

    def _announce_to(self, keys: Sequence[str] | None) -> None:
        for _ in range(5):  # each round removes sessions that are gone; the rest is told in the next one
            presence = self.store.presence()
            people = [asdict(user) for user in presence.people]
            frame = _frame("people", revision=presence.revision, people=people)
            gone = self._push(presence.keys if keys is None else keys, frame)
            if not self.store.forget(gone):
                return
            keys = None

    def _send(self, keys: Sequence[str], frame: str) -> None:
        if self.store.forget(self._push(keys, frame)):
            self.announce()

    def _push(self, keys: Sequence[str], frame: str) -> set[str]:
        try:
            return self.proxy.send(keys, frame)
        except ProxyError as error:
            # Nothing is lost: pages that come back get the messages with their first frame.
            log.warning("%s", error)
            return set()


def _parse(frame: str) -> tuple[str, object]:
    try:
        said = json.loads(frame)
    except (ValueError, RecursionError):
        raise InvalidError("expected JSON") from None
    if not isinstance(said, dict):
        raise InvalidError("expected a JSON object")
    nonce = said.get("nonce")
    if not isinstance(nonce, str) or not NONCE.fullmatch(nonce):
        raise InvalidError(f"expected a nonce like {NONCE.pattern}")
    return nonce, said.get("text")


def _message_frame(message: Message) -> str:
    return _frame("message", message=asdict(message))


def _frame(kind: str, **fields: object) -> str:
    return json.dumps({"type": kind, **fields}, ensure_ascii=False, separators=(",", ":"))
