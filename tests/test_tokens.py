"""Push tokens: what is believed, and what one allows over real sockets, on every server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sqlite3
import time
import uuid
from collections.abc import Iterator
from typing import Any

import hypothesis
import jwt
import pytest
from django.conf import settings
from django.core import signing
from hypothesis import strategies as st

from proxy import tokens
from proxy.exceptions import Forbidden, Unauthorized, Unavailable
from proxy.tokens import Grant
from tests.clients import Response, client, receive, request
from tests.operators import manage, registered
from tests.servers import ALONE, Server, Servers

pytestmark = pytest.mark.usefixtures("clean_logs")

FAR = int(time.time()) + 3600
GRANT = Grant("9b2f9a0e-0d6e-4c39-8b51-2a7c0e1d3f4a", "room1.", ("send", "list"), FAR)


@pytest.fixture
def revoked(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The ids of revoked tokens."""
    monkeypatch.setattr(tokens, "_revoked", found := set[str]())
    yield found
    tokens._verified.cache_clear()


def forged(key: bytes | str | None = None, algorithm: str = "HS256", **changes: Any) -> bytes:
    claims = {"v": 1, "aud": "kuiperbelt-push", "jti": "x", "exp": FAR, "prefix": "", "verbs": ["send"]} | changes
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, tokens._key() if key is None else key, algorithm).encode()


def test_what_was_granted(revoked: set[str]) -> None:
    token = tokens.sign(GRANT).encode()
    assert tokens.looks_like_one(token)
    assert tokens.granted(token) == GRANT
    longest = Grant(str(uuid.uuid4()), "p" * 256, tokens.VERBS, FAR)
    assert tokens.granted(tokens.sign(longest).encode()) == longest


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
CLAIMS = st.dictionaries(st.sampled_from(["v", "aud", "jti", "exp", "prefix", "verbs", "nbf", "iat", "sub"]), JSON)


@hypothesis.given(CLAIMS)
def test_whatever_is_signed_is_a_grant_or_not_believed(claims: dict[str, Any]) -> None:
    """Also what a newer version might sign."""
    good = {"v": 1, "aud": "kuiperbelt-push", "jti": "x", "exp": FAR, "prefix": "", "verbs": ["send"]}
    token = jwt.api_jws.encode(json.dumps(good | claims).encode(), tokens._key(), "HS256").encode()
    with contextlib.suppress(Unauthorized):
        grant = tokens.verified(token)
        with contextlib.suppress(Forbidden):
            grant.check("send", ["x"])


@hypothesis.given(st.lists(st.binary(max_size=20) | st.sampled_from([b"eyJ", b"e30", b"."]), max_size=6).map(b"".join))
def test_whatever_is_given_as_a_token_is_not_believed(given: bytes) -> None:
    with pytest.raises(Unauthorized, match="not allowed: "):
        tokens.verified(b"eyJ" + given)


@pytest.mark.parametrize("depth", [1, 500, 1450])
def test_a_token_of_deeply_nested_json(depth: int) -> None:
    header = base64.urlsafe_b64encode(b'{"alg":' + b"[" * depth).rstrip(b"=")
    assert tokens.looks_like_one(header + b".e30.")
    with pytest.raises(Unauthorized, match="not allowed: "):
        tokens.verified(header + b".e30.")


@pytest.mark.parametrize("given", [b"", b"a-key-of-16-bytes", b"a.key.of-16-bytes", b"eyJ", b"eyJ.x"])
def test_what_is_no_token(given: bytes) -> None:
    assert not tokens.looks_like_one(given)


@pytest.mark.parametrize(
    "token",
    [
        b"eyJ..",
        b"eyJ\xff.\xff.\xff",
        b"eyJ.a." + b"x" * 5000,
        forged(key="another-key-of-at-least-32-characters"),
        forged(key=settings.SECRET_KEY),
        forged(key="", algorithm="none"),
        forged(algorithm="HS512", key=b"x" * 64),
        forged(aud="something-else"),
        forged(aud=None),
        forged(exp=None),
        forged(jti=None),
        forged(exp=int(time.time()) - 1),
        forged(v=2),
        forged(v=None),
        pytest.param(signing.dumps({"jti": "x"}, salt="proxy.tokens").encode(), id="Django's signature"),
    ],
)
def test_what_is_not_believed(revoked: set[str], token: bytes) -> None:
    with pytest.raises(Unauthorized, match="not allowed: "):
        tokens.granted(token)


def test_another_algorithm_with_the_right_key(revoked: set[str]) -> None:
    assert tokens.granted(forged())
    for algorithm in ("HS384", "HS512"):
        with pytest.warns(jwt.InsecureKeyLengthWarning):
            token = forged(algorithm=algorithm)
        with pytest.raises(Unauthorized):
            tokens.granted(token)


def test_a_changed_token_is_none(revoked: set[str]) -> None:
    head, body, signature = tokens.sign(GRANT).split(".")
    other = tokens.sign(Grant(GRANT.id, "", tokens.VERBS, FAR)).split(".")[1]
    assert tokens.granted(f"{head}.{body}.{signature}".encode())
    with pytest.raises(Unauthorized):
        tokens.granted(f"{head}.{other}.{signature}".encode())


def test_expiry_and_revocation_reach_a_token_that_was_believed(revoked: set[str]) -> None:
    token = tokens.sign(GRANT).encode()
    tokens.granted(token)
    revoked.add(GRANT.id)
    with pytest.raises(Unauthorized, match="revoked"):
        tokens.granted(token)
    revoked.clear()
    soon = tokens.sign(Grant("x", "", ("send",), int(time.time()) + 1)).encode()
    tokens.granted(soon)
    time.sleep(1.1)
    with pytest.raises(Unauthorized, match="expired"):
        tokens.granted(soon)


def test_nothing_is_granted_before_revocations_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_revoked", None)
    with pytest.raises(Unavailable):
        tokens.granted(tokens.sign(GRANT).encode())


def test_only_good_tokens_take_memory(revoked: set[str]) -> None:
    tokens._verified.cache_clear()
    for _ in range(50):
        with pytest.raises(Unauthorized):
            tokens.granted(forged(key=uuid.uuid4().bytes * 2))
    assert tokens._verified.cache_info().currsize == 0
    assert tokens._verified.cache_info().maxsize == 1024


def test_verbs_and_prefix() -> None:
    GRANT.check("send", ["room1.bob", "room1."])
    GRANT.check("list")
    with pytest.raises(Forbidden, match="the token is for send, list, not for close"):
        GRANT.check("close", ["room1.bob"])
    for key in ("room2.bob", "room1", "ROOM1.bob"):
        with pytest.raises(Forbidden, match=f"keys that begin with room1., not for {key}$"):
            GRANT.check("send", ["room1.bob", key])


async def made(server: Server, *arguments: str) -> str:
    done = await manage("maketoken", *arguments, env=server.env)
    assert done.status == 0, done.errors
    (token,) = done.lines
    return token


async def ask(
    server: Server, token: str, method: str, path: str, *keys: str, body: bytes | None = None, forwarded: bool = False
) -> Response:
    headers = [("Authorization", f"Bearer {token}"), *(("X-Kuiperbelt-Session", key) for key in keys)]
    return await request(server, method, path, headers + [("X-Forwarded-For", "8.8.8.8")] * forwarded, body)


@pytest.mark.parametrize("kind", ALONE)
async def test_what_a_token_allows(servers: Servers, kind: str) -> None:
    server = await servers.start(kind)
    push = await made(server, "--prefix=room1.", "--verb=send")
    see = await made(server, "--prefix=room1.", "--verb=list")
    end = await made(server, "--prefix=room1.", "--verb=close", "--verb=send")
    keys = ("room1.bob", "ROOM1.eve", "room2.joe")
    async with client(server, keys[0]) as bob, client(server, keys[1]) as eve, client(server, keys[2]):
        await registered(server, *keys)
        assert (await ask(server, push, "POST", "/send", keys[0], body=b"first")).status == 200
        assert await receive(bob) == "first"
        assert (await ask(server, push, "POST", "/send", keys[0], body=b"second", forwarded=True)).status == 200
        assert await receive(bob) == "second"
        refused = await ask(server, push, "POST", "/send", keys[0], keys[2], body=b"x")
        assert refused.status == 403
        text = "not allowed: the token is for keys that begin with room1., not for room2.joe"
        assert refused.json() == {"errors": [{"error": text}], "result": "NG"}
        for method, path in (
            ("POST", "/close"),
            ("POST", "/sessions"),
            ("GET", "/sessions"),
            ("GET", "/sessions/room1.bob"),
        ):
            assert (await ask(server, push, method, path, keys[0], body=b"")).status == 403, path
        page = (await ask(server, see, "GET", "/sessions")).json()
        assert [entry["session"] for entry in page["sessions"]] == ["room1.bob"]
        assert (await ask(server, see, "GET", "/sessions/room1.bob")).status == 200
        for key in keys[1:]:
            assert (await ask(server, see, "GET", f"/sessions/{key}")).status == 403
            refused = await ask(server, see, "POST", "/sessions", body=json.dumps(["room1.x", key]).encode())
            assert (refused.status, key in refused.body.decode()) == (403, True)
        alive = await ask(server, see, "POST", "/sessions", body=b'["room1.x","room1.bob"]')
        assert alive.json()["gone"] == ["room1.x"]
        assert (await ask(server, end, "POST", "/close", keys[1], body=b"")).status == 403
        assert (await ask(server, end, "POST", "/close", keys[0], body=b"bye")).status == 200
        assert await receive(bob) == "bye"
        await bob.wait_closed()
        assert eve.close_code is None
    assert (await ask(server, push[:-1], "POST", "/send", keys[0], body=b"x")).status == 401
    for token in (push, see, end):
        assert token not in server.output()
    await server.stop()


async def test_a_revoked_token_is_refused_soon_and_stays_so_without_the_database(servers: Servers) -> None:
    server = await servers.start("uvicorn", {"EKBO_NODE_TIMEOUT": "1s"})
    token, other = [await made(server, "--prefix=", "--verb=send") for _ in range(2)]
    assert (await ask(server, token, "POST", "/send", "bob", body=b"x")).status == 200
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (await manage("revoketokens", claims["jti"], env=server.env)).status == 0
    deadline = time.monotonic() + 10
    while (answer := await ask(server, token, "POST", "/send", "bob", body=b"x")).status != 401:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert b"revoked" in answer.body
    path = server.env["EKBO_DATABASE_URL"].removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        while b"degraded" not in (await request(server, "GET", "/ready")).body:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        # Without the database what was known last holds.
        assert (await ask(server, token, "POST", "/send", "bob", body=b"x")).status == 401
        assert (await ask(server, other, "POST", "/send", "bob", body=b"x")).status == 200
    await server.stop()


async def test_without_the_registry_there_are_no_tokens(servers: Servers) -> None:
    server = await servers.start("uvicorn", {"EKBO_REGISTRY": "false"})
    answer = await ask(server, "eyJ.x.x", "POST", "/send", "bob", body=b"x")
    assert (answer.status, b"EKBO_REGISTRY" in answer.body) == (403, True)
    await server.stop()
