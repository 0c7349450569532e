"""What a push does, whoever parsed it. How it is answered over real sockets: test_contract_send."""

import pytest

from proxy import pushes
from proxy.conf import Options
from proxy.delivery import Delivery
from proxy.exceptions import ApiError, BadRequest, Forbidden, MethodNotAllowed, SessionHeaderMissing
from proxy.protocol import Failure

BOB = (b"x-kuiperbelt-session", b"bob")


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
    scope = {"client": (client, 5), "server": ("127.0.0.1", 9180), "method": method, "headers": headers}
    with pytest.raises(error):
        pushes.admitted_keys(scope, Options(), pushes.send)


def test_admitted() -> None:
    scope = {"client": ("127.0.0.1", 5), "server": None, "method": "POST", "headers": [BOB, BOB]}
    assert pushes.admitted_keys(scope, Options(), pushes.send) == ["bob", "bob"]


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
        _ = push(["bob"], body, headers)


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
