"""Push tokens: JSON Web Tokens (RFC 7519) that allow some verbs on session keys that begin with a prefix.

`maketoken` signs them, `access` asks what one allows. Which ones are revoked is in the database, and `nodes` brings it.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import jwt
from django.conf import settings
from django.utils.crypto import salted_hmac

from proxy.exceptions import Forbidden, Unauthorized, Unavailable

VERBS = ("send", "close", "list", "metrics")
"""What a token can allow: POST /send, POST /close, /sessions, /metrics."""

VERSION = 1
MAX_SIZE = 2048  # characters; ours have at most 900

_ALGORITHM = "HS256"
_AUDIENCE = "kuiperbelt-push"

_revoked: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token allows."""

    id: str
    prefix: str
    verbs: tuple[str, ...]
    expires: int
    """Seconds since 1970."""

    def check(self, verb: str, keys: Iterable[str] = ()) -> None:
        """Raises Forbidden unless the verb is allowed, on all of these session keys."""
        if verb not in self.verbs:
            raise Forbidden(f"not allowed: the token is for {', '.join(self.verbs)}, not for {verb}")
        for key in keys:
            if not key.startswith(self.prefix):
                raise Forbidden(f"not allowed: the token is for keys that begin with {self.prefix}, not for {key}")


def sign(grant: Grant) -> str:
    """The token that proves a grant."""
    claims = {"v": VERSION, "aud": _AUDIENCE, "jti": grant.id, "exp": grant.expires}
    return jwt.encode(claims | {"prefix": grant.prefix, "verbs": list(grant.verbs)}, _key(), _ALGORITHM)


def looks_like_one(given: bytes) -> bool:
    """Is this a token, good or bad, rather than a wrong API key?"""
    return given.startswith(b"eyJ") and given.count(b".") == 2  # how the JSON of every JWT's header begins


def granted(token: bytes) -> Grant:
    """What a token allows now. Raises Unauthorized, or Unavailable while it isn't known which ones are revoked."""
    grant = verified(token)
    if grant.expires <= time.time():
        raise Unauthorized("not allowed: the token has expired")
    if _revoked is None:
        raise Unavailable("the database hasn't told yet which tokens are revoked")
    if grant.id in _revoked:
        raise Unauthorized("not allowed: the token is revoked")
    return grant


def verified(token: bytes) -> Grant:
    """What a token of ours says, be it revoked or not. Raises Unauthorized."""
    if len(token) > MAX_SIZE:
        raise Unauthorized("not allowed: the token isn't one of this proxy")
    return _verified(token)


def set_revoked(ids: Iterable[str]) -> None:
    """From now on these tokens are revoked, and no others."""
    global _revoked
    _revoked = frozenset(ids)


def knows_revoked() -> bool:
    return _revoked is not None


@lru_cache(1024)  # exceptions aren't kept, so only good tokens are
def _verified(token: bytes) -> Grant:
    try:
        claims: dict[str, Any] = jwt.decode(
            token, _key(), algorithms=[_ALGORITHM], audience=_AUDIENCE, options={"require": ["exp", "jti"]}
        )
    except jwt.ExpiredSignatureError:
        raise Unauthorized("not allowed: the token has expired") from None
    except jwt.InvalidTokenError:
        raise Unauthorized("not allowed: the token isn't one of this proxy, whose EKBO_SECRET_KEY signs them") from None
    if claims.get("v") != VERSION:
        raise Unauthorized(f"not allowed: expected a token of version {VERSION}, found another one")
    match claims:
        case {"jti": str(identity), "prefix": str(prefix), "verbs": [*verbs], "exp": int(expires)}:
            if all(isinstance(verb, str) for verb in verbs):
                return Grant(identity, prefix, tuple(verbs), expires)
    raise Unauthorized("not allowed: expected a token with jti, prefix, verbs and exp, found another one")


@cache
def _key() -> bytes:
    """Derived, so that nothing else that the project signs, like the admin's cookies, can pass for a token."""
    return salted_hmac("proxy.tokens", "push", settings.SECRET_KEY, algorithm="sha256").digest()
