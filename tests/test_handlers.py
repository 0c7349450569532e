"""The lean handler with the views: what it serves itself, how it reads bodies, what it never lets out."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from django.test import override_settings

from proxy import conf, delivery
from proxy.handlers import ProxyHandler
from proxy.stats import stats

KEY = (b"x-kuiperbelt-session", b"bob")
JSON = "application/json; charset=utf-8"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


async def ask(
    method: str, target: str, *headers: tuple[bytes, bytes], body: Sequence[bytes] = (b"",), hang_up: bool = False
) -> Answer | None:
    """One request through the handler; None when it sent no answer."""
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": list(headers),
        "client": ("127.0.0.1", 5),
        "server": ("127.0.0.1", 9180),
        "scheme": "http",
    }
    parts = [{"type": "http.request", "body": part, "more_body": True} for part in body]
    parts += [{"type": "http.disconnect"}] if hang_up else [{"type": "http.request", "body": b"", "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        return parts.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    async def fallback(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": b"django"})

    await ProxyHandler(fallback)(scope, receive, send)
    if not sent:
        return None
    start, content = sent
    decoded = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], decoded, content["body"])


async def test_other_paths_go_to_django() -> None:
    answer = await ask("GET", "/admin/")
    assert answer
    assert (answer.status, answer.body) == (299, b"django")


async def test_ping_any_method() -> None:
    for method in ("GET", "POST", "HEAD", "DELETE"):
        answer = await ask(method, "/ping")
        assert answer
        assert (answer.status, answer.body, answer.headers["content-type"]) == (200, b'{"result":"OK"}', JSON)


@pytest.mark.parametrize(
    ("query", "content_type", "start"),
    [
        ("", "application/json", b'{"connections":'),
        ("?format=tsv", "text/plain", b"kuiperbelt.conn.current\t"),
        ("?format=txt", "text/plain", b"kuiperbelt.conn.current\t"),
        ("?format=text", "text/plain", b"kuiperbelt.conn.current\t"),
        ("?format=xml", "application/json", b'{"connections":'),
    ],
)
async def test_stats(query: str, content_type: str, start: bytes) -> None:
    answer = await ask("GET", f"/stats{query}")
    assert answer
    assert answer.headers["content-type"] == content_type
    assert answer.body.startswith(start)
    assert answer.body.endswith(b"\n")


async def test_connect_without_upgrade() -> None:
    before = stats.connect_errors
    answer = await ask("GET", "/connect")
    assert answer
    assert (answer.status, answer.headers["upgrade"]) == (426, "websocket")
    assert stats.connect_errors == before + 1


async def test_send_and_close_to_nobody() -> None:
    for path in ("/send", "/close"):
        answer = await ask("POST", path, KEY, body=[b"hel", b"lo"])
        assert answer
        assert answer.status == 200
        assert b'"kuiperbelt: session is not found","session":"bob"' in answer.body


@pytest.mark.parametrize(
    ("method", "headers", "body", "status", "text"),
    [
        ("GET", [KEY], b"", 405, b"required POST method"),
        ("POST", [], b"x", 400, b"session header is missing"),
        ("POST", [KEY], b"\xff", 400, b"expected UTF-8"),
        ("POST", [KEY], b"x" * 101, 413, b"at most 100 bytes"),
        ("POST", [KEY, (b"content-length", b"101")], b"", 413, b"at most 100 bytes"),
        ("POST", [KEY, (b"x-forwarded-for", b"1.2.3.4")], b"x", 403, b"not allowed"),
    ],
)
async def test_refusals(method: str, headers: list[tuple[bytes, bytes]], body: bytes, status: int, text: bytes) -> None:
    with override_settings(KUIPERBELT=conf.Options(max_body_size=100)):
        answer = await ask(method, "/send", *headers, body=[body[:60], body[60:]])
    assert answer
    assert (answer.status, answer.headers["content-type"]) == (status, JSON)
    assert text in answer.body
    assert answer.body.endswith(b'"result":"NG"}')
    if status == 405:
        assert answer.headers["allow"] == "POST"


async def test_half_a_body_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*args: Any) -> None:
        raise AssertionError("sent")

    monkeypatch.setattr(delivery, "send", never)
    assert await ask("POST", "/send", KEY, body=[b"half"], hang_up=True) is None


async def test_an_error_of_ours_is_logged_and_says_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(*args: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(delivery, "send", fails)
    answer = await ask("POST", "/send", KEY)
    assert answer
    assert (answer.status, answer.body) == (500, b'{"result":"NG"}')
    assert "secret detail" in caplog.text


async def test_the_access_log_names_no_query(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "proxy.access"):
        await ask("GET", "/ping?token=secret")
        assert "GET /ping 200" in caplog.text
        assert "secret" not in caplog.text
        caplog.clear()
        with override_settings(KUIPERBELT=conf.Options(suppress_access_log=True)):
            await ask("GET", "/ping")
        assert not caplog.records
