"""What a failed callback means, in plain words: statuses. What real backends do wrong is in test_checkbackend."""

import pytest

from proxy.conf import Options
from proxy.diagnosis import explain
from proxy.exceptions import CallbackError, ConnectRefused

URL = "http://app.example:8000/hooks/x?token=secret"


@pytest.mark.parametrize(
    ("name", "error", "expected"),
    [
        ("connect", ConnectRefused(403), "doesn't let this client in; --query and --header"),
        (
            "connect",
            ConnectRefused(403, b"expected\x1b the proxy's signature\nx"),
            ". It says: expected\x1b the proxy's signature",
        ),
        ("connect", ConnectRefused(404, b"<!doctype html>"), "nothing at /hooks/x"),
        ("connect", ConnectRefused(404), "status 404: the backend has nothing at /hooks/x"),
        ("connect", ConnectRefused(405), "doesn't take GET at /hooks/x"),
        ("close", CallbackError("close: expected status 200, found 405"), "doesn't take POST at /hooks/x"),
        ("close", CallbackError("close: expected status 200, found 403"), "CSRF"),
        ("close", CallbackError("close: expected status 200, found 400"), "must allow app.example"),
        ("close", CallbackError("close: expected status 200, found 204"), "status 204: expected 200"),
        ("connect", CallbackError("connect: expected a final answer, found status 302"), "a redirect"),
        ("connect", ConnectRefused(500), "its own log says why"),
        ("connect", ConnectRefused(599), "its own log says why"),
        (
            "connect",
            CallbackError("connect: expected one session key in X-Key, found 2 of them"),
            "one session key in X-Key",
        ),
    ],
)
def test_plain_words(name: str, error: CallbackError | ConnectRefused, expected: str) -> None:
    said = explain(name, URL, error, Options())
    assert expected in said
    assert "secret" not in said
    assert "html" not in said
