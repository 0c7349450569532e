"""Who is asking: a signed cookie for the page, a short-lived signed token where cookies don't reach."""

import secrets
from collections.abc import MutableMapping
from typing import Any

from flask import current_app
from itsdangerous import BadSignature, URLSafeTimedSerializer

from examples.chat.store import User

TOKEN_LIFETIME = 60  # seconds


def new_user(name: str) -> User:
    return User(secrets.token_urlsafe(9), name)


def session_user(session: MutableMapping[str, Any]) -> User | None:
    """The user that Flask's signed session cookie names."""
    uid, name = session.get("uid"), session.get("name")
    return User(uid, name) if isinstance(uid, str) and isinstance(name, str) else None


def make_token(user: User) -> str:
    """A token for the query of /connect, when the proxy's host name is not the page's."""
    return _serializer().dumps([user.uid, user.name])


def read_token(token: str) -> User:
    """Raises itsdangerous' BadSignature (SignatureExpired when it is too old)."""
    match _serializer().loads(token, max_age=TOKEN_LIFETIME):
        case [str(uid), str(name)]:
            return User(uid, name)
    raise BadSignature("expected a user id and a name")


def _serializer() -> URLSafeTimedSerializer:
    secret = current_app.secret_key
    assert secret is not None
    return URLSafeTimedSerializer(secret, salt="connect")
