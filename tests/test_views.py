"""The API's views, called as ASGI: parsing, refusals, answers (contract: POST send, close; GET ping, stats)."""

import pytest
from django.test import override_settings

from proxy import conf
from proxy.stats import stats
from tests.asgi import ask

KEY = (b"x-kuiperbelt-session", b"bob")
JSON = "application/json; charset=utf-8"


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
        ("?" + "a&" * 2000 + "format=tsv", "text/plain", b"kuiperbelt.conn.current\t"),
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
        ("POST", [KEY, (b"content-length", b"0" * 5000 + b"1")], b"", 413, b"at most 100 bytes"),
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
