"""The lean handler: what it serves itself, how it reads bodies, what it never lets out."""

import asyncio
import gc
import logging
from typing import Any

import pytest
from django.core.asgi import get_asgi_application
from django.test import override_settings

from proxy import conf, delivery
from proxy.handlers import ProxyHandler
from tests.asgi import ask

KEY = (b"x-kuiperbelt-session", b"bob")
MAX_BODY_SIZE = conf.Options().max_body_size


async def test_other_paths_go_to_django() -> None:
    answer = await ask("GET", "/admin/")
    assert answer
    assert (answer.status, answer.body) == (299, b"django")


async def test_a_body_of_any_size_is_not_kept_for_django() -> None:
    """Whoever it is for: Django would have it on disk before it says 404."""
    for size, status in ((MAX_BODY_SIZE, 299), (MAX_BODY_SIZE + 1, 413)):
        for headers in ((), ((b"content-length", b"%d" % size),)):
            answer = await ask("POST", "/nowhere", *headers, body=[b"x" * 1000, b"x" * (size - 1000)])
            assert answer
            assert answer.status == status
    assert await ask("POST", "/admin/", body=[b"half"], hang_up=True) is None


async def test_django_hears_of_a_hang_up_once_its_answer_has_begun() -> None:
    """Which ends a stream; before, its middleware mustn't be cancelled."""
    parts = [{"type": "http.request", "body": b"x", "more_body": False}, {"type": "http.disconnect"}]
    heard: list[str] = []

    async def receive() -> Any:
        return parts.pop(0)

    async def send(message: Any) -> None:
        heard.append(message["type"])

    async def django(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["body"] == b"x"
        listening = asyncio.create_task(receive())
        await asyncio.sleep(0.01)
        assert not listening.done()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        heard.append((await listening)["type"])

    await ProxyHandler(django)({"type": "http", "method": "GET", "path": "/admin/", "headers": []}, receive, send)
    assert heard == ["http.response.start", "http.disconnect"]


class Frozen:
    """A page that takes nothing of Django's answer, and the server behind it."""

    def __init__(self) -> None:
        self.asked, self.gone = asyncio.Event(), asyncio.Event()
        self.parts = [{"type": "http.request", "body": b"", "more_body": False}]
        self.complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, complaint: self.complaints.append(complaint))

    async def receive(self) -> Any:
        if self.parts:
            return self.parts.pop()
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            self.asked.set()
            await self.gone.wait()

    def answer(self) -> asyncio.Task[None]:
        headers = [(b"host", b"localhost")]
        scope = {"type": "http", "method": "GET", "path": "/admin/login/", "headers": headers, "query_string": b""}
        return asyncio.create_task(ProxyHandler(get_asgi_application())(scope, self.receive, self.send))


async def test_the_server_ends_while_a_page_reads_nothing() -> None:
    """uvicorn cancels it then, and the log would be full of tracebacks."""
    page = Frozen()
    answering = page.answer()
    async with asyncio.timeout(5):
        await page.asked.wait()
        answering.cancel()
        await answering
    page.gone.set()
    await asyncio.sleep(0.1)
    gc.collect()
    assert page.complaints == []


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

    monkeypatch.setattr(delivery, "begin_send", fails)
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


async def test_an_error_in_the_middle_of_an_answer_breaks_it_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(*args: Any) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(delivery, "begin_send", fails)
    answer = await ask("POST", "/batch", body=[b'[]\n{"session":"bob","body":"x"}'])
    assert answer
    assert (answer.status, answer.whole) == (200, False)
    assert b"secret" not in answer.body
    assert "secret detail" in caplog.text


async def test_who_hangs_up_in_the_middle_of_an_answer_gets_no_end() -> None:
    answer = await ask("POST", "/batch", body=[b"[]\n", b"{"], hang_up=True)
    assert answer
    assert (answer.body.count(b'"line":1,'), answer.whole) == (1, False)
