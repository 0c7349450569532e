"""What a push does, whoever parsed it. How it is answered over real sockets: test_contract_send."""

import time
from contextlib import nullcontext

import pytest

from proxy import pushes, tokens
from proxy.conf import Options
from proxy.delivery import Delivery
from proxy.exceptions import ApiError, BadRequest, Forbidden, MethodNotAllowed, SessionHeaderMissing
from proxy.protocol import Failure
from proxy.pushes import Head

NAME = b"x-kuiperbelt-session"
BOB = (NAME, b"bob")


@pytest.mark.parametrize(
    ("client", "method", "headers", "error"),
    [
        ("8.8.8.8", "GET", [], Forbidden),  # who may not ask isn't told what is wrong with the question
        ("127.0.0.1", "GET", [], MethodNotAllowed),
        ("127.0.0.1", "POST", [], SessionHeaderMissing),
        ("127.0.0.1", "POST", [BOB, (b"x-kuiperbelt-session", b"e\x7fe")], BadRequest),
    ],
)
def test_refused(client: str, method: str, headers: list[tuple[bytes, bytes]], error: type[ApiError]) -> None:
    scope = {"client": (client, 5), "server": ("127.0.0.1", 9180), "method": method}
    with pytest.raises(error):
        Head(headers, NAME).admitted_keys(scope, Options(), pushes.send)


def test_admitted() -> None:
    scope = {"client": ("127.0.0.1", 5), "server": None, "method": "POST"}
    assert Head([BOB, BOB], NAME).admitted_keys(scope, Options(), pushes.send) == ["bob", "bob"]


@pytest.mark.parametrize("push", [pushes.send, pushes.close])
def test_a_token_counts_for_its_verb_and_keys(push: pushes.Push, monkeypatch: pytest.MonkeyPatch) -> None:
    verb = "send" if push is pushes.send else "close"
    scope = {"client": ("8.8.8.8", 5), "server": None, "method": "POST"}
    monkeypatch.setattr(tokens, "_revoked", frozenset())
    for prefix, verbs, admitted in (("b", (verb,), True), ("c", (verb,), False), ("b", ("list",), False)):
        token = tokens.sign(tokens.Grant("id", prefix, verbs, int(time.time()) + 60))
        head = Head([BOB, (b"authorization", f"Bearer {token}".encode())], NAME)
        with nullcontext() if admitted else pytest.raises(Forbidden):
            assert head.admitted_keys(scope, Options(), push) == ["bob"]


def test_what_counts_of_a_head() -> None:
    headers = [
        BOB,
        (b"transfer-encoding", b"chunked"),
        (b"content-length", b"5"),
        (b"content-type", b"a/b"),
        (b"content-type", b"second"),
        (b"authorization", b"Basic x"),
        (b"forwarded", b"for=1.2.3.4"),
        (b"accept", b"c"),
    ]
    head = Head(headers, NAME)
    assert (head.session_values, head.framing, head.content_type) == ([b"bob"], [b"chunked", b"5"], b"a/b")
    assert (head.authorizations, head.forwarded) == ([b"Basic x"], True)


@pytest.mark.parametrize(
    ("push", "body", "headers"),
    [
        (pushes.send, b"\xff", []),
        (pushes.close, b"\xff", []),
        (pushes.close, b"", [(b"x-kuiperbelt-close-code", b"1001")]),
        (pushes.close, b"", [(b"x-kuiperbelt-close-reason", b"\xff")]),
    ],
)
def test_a_bad_push_is_refused_before_anything_is_done(
    push: pushes.Push, body: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    with pytest.raises(BadRequest):
        _ = push(["bob"], body, Head(headers, NAME))


@pytest.mark.parametrize(
    ("done", "status", "start"),
    [
        (Delivery(), 200, b'{"result":"OK"}'),
        (Delivery([Failure("eve", "gone")]), 200, b'{"errors":[{"error":"gone","session":"eve"}],"result":"OK"}\n'),
        (Delivery([Failure("eve", "gone")], refused=True), 400, b'{"errors":[{"error":"gone"'),
        (Delivery([Failure("eve", "gone")], unreachable=True), 503, b'{"errors":[{"error":"gone"'),
    ],
)
def test_answers(done: Delivery, status: int, start: bytes) -> None:
    got, body = pushes.answer(done)
    assert got == status
    assert body.startswith(start)
    assert body.endswith(b'"NG"}\n' if status != 200 else (b'"OK"}\n' if done.failures else b'"OK"}'))


def test_what_only_another_version_says_is_counted_and_answered() -> None:
    """Over Redis a process may answer with an outcome that no push of ours has."""
    failed = Delivery([Failure("bob", "kuiperbelt: something new")])
    status, body = pushes.Tally(pushes.send, "push_lane").answer(failed, ["bob"])
    assert (status, b"something new" in body) == (200, True)
