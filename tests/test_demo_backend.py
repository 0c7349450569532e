"""The demo (examples/chat) without a browser: its HTTP side, two workers under load, and the command that starts it."""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from examples.chat import run
from examples.chat.app import create_app
from examples.chat.push import Proxy, ProxyError
from examples.chat.store import Store
from tests.demo import HOST, SECRET, Demo, running_demo
from tests.servers import free_port


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with running_demo(tmp_path_factory.mktemp("chat")) as demo:
        yield demo


@pytest.fixture
def empty_demo(tmp_path: Path) -> Iterator[Demo]:
    """A demo in which nobody has said anything."""
    with running_demo(tmp_path) as demo:
        yield demo


class TestLoad:
    async def test_many_at_once_do_not_lock_two_workers_up(self, empty_demo: Demo) -> None:
        """Each connect, message and leave makes a worker call the proxy while the proxy waits for that worker."""
        people, words = 20, 5

        async def person(number: int) -> list[str]:
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            status, headers, _ = await asyncio.to_thread(ask, empty_demo, "POST", "/login", form, f"name=P{number}")
            assert status == 303
            cookie = {"Cookie": headers["Set-Cookie"].split(";")[0]}
            heard: list[str] = []
            async with connect(f"ws://{HOST}:{empty_demo.port}/connect", additional_headers=cookie) as socket:
                for word in range(words):
                    await socket.send(json.dumps({"nonce": f"n-{word}", "text": f"{number}: {word}"}))
                while sum(said.startswith(f"{number}: ") for said in heard) < words:
                    async with asyncio.timeout(30):
                        frame = json.loads(await socket.recv())
                    if frame["type"] == "message":
                        heard.append(frame["message"]["text"])
            return heard

        everything = await asyncio.gather(*(person(number) for number in range(people)))
        for number, heard in enumerate(everything):
            own = [said for said in heard if said.startswith(f"{number}: ")]
            assert own == [f"{number}: {word}" for word in range(words)]
        store = Store(empty_demo.database)
        for _ in range(150):
            if not store.keys():
                break
            await asyncio.sleep(0.1)
        assert store.keys() == []
        assert store.presence().people == ()


class TestBackend:
    """The chat's HTTP side, without a browser."""

    def test_nobody_else_can_play_the_proxy(self, demo: Demo) -> None:
        for method, path in (("GET", "/connect"), ("POST", "/establish"), ("POST", "/receive"), ("POST", "/close")):
            status, _, body = ask(demo, method, path)
            assert (status, body) == (403, "expected the proxy's secret\n")

    def test_connect_without_login_is_refused_with_a_reason(self, demo: Demo) -> None:
        status, headers, body = ask(demo, "GET", "/connect", {"X-Chat-Callback-Secret": SECRET})
        assert (status, body) == (401, "Please log in first.\n")
        assert "X-Kuiperbelt-Session" not in headers

    def test_a_forged_token_is_refused(self, demo: Demo) -> None:
        status, _, body = ask(demo, "GET", "/connect?token=forged", {"X-Chat-Callback-Secret": SECRET})
        assert (status, body) == (401, "The token is not valid.\n")

    def test_another_host_name_gets_a_token_instead_of_the_cookie(
        self, demo: Demo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("CHAT_DATABASE", str(tmp_path / "chat.sqlite3"))
        monkeypatch.setenv("CHAT_SOCKET_URL", "wss://push.example.com/connect")
        app = create_app()
        page = app.test_client()
        assert page.post("/login", data={"name": "Ada"}).status_code == 303
        url = page.post("/ticket").get_json()["url"]
        assert url.startswith("wss://push.example.com/connect?token=")
        assert "wss://push.example.com;" in page.get("/").headers["Content-Security-Policy"]
        answer = app.test_client().get(url.removeprefix("wss://push.example.com"))
        assert answer.status_code == 200
        assert answer.headers["X-Kuiperbelt-Session"]
        assert answer.get_json()["you"]["name"] == "Ada"

    def test_a_push_to_more_sessions_than_one_request_takes(self, demo: Demo) -> None:
        keys = [f"nobody-{number}" for number in range(1201)]
        assert Proxy(f"http://{HOST}:{demo.port}").send(keys, "hello") == set(keys)

    def test_a_proxy_that_is_down_is_an_error_of_its_own(self) -> None:
        port = free_port()
        with pytest.raises(ProxyError, match="POST /send for 1 sessions failed"):
            Proxy(f"http://{HOST}:{port}").send(["nobody"], "hello")

    def test_other_sites_cannot_log_anybody_in(self, demo: Demo) -> None:
        status, _, _ = ask(demo, "POST", "/login", {"Sec-Fetch-Site": "cross-site"})
        assert status == 403

    def test_a_bad_host_header_is_refused(self, demo: Demo) -> None:
        status, headers, _ = ask(demo, "GET", "/", {"Host": "a;script-src *"})
        assert status == 400
        assert "*" not in headers["Content-Security-Policy"]

    def test_idle_connections_do_not_stop_the_workers(self, demo: Demo) -> None:
        with ExitStack() as stack:
            for _ in range(6):
                stack.enter_context(socket.create_connection((HOST, demo.demo_port)))
            time.sleep(0.3)
            before = time.monotonic()
            assert ask(demo, "GET", "/")[0] == 200
            assert time.monotonic() - before < 3

    def test_no_inline_code(self, demo: Demo) -> None:
        _, headers, body = ask(demo, "GET", "/")
        assert headers["Content-Security-Policy"].startswith("default-src 'self';")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert "style=" not in body
        assert "<script>" not in body


def ask(
    demo: Demo, method: str, path: str, headers: dict[str, str] | None = None, body: str | None = None
) -> tuple[int, http.client.HTTPMessage, str]:
    connection = http.client.HTTPConnection(HOST, demo.demo_port, timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


class TestRun:
    """The command that people type."""

    def start(self, port: int, demo_port: int, tmp_path: Path) -> subprocess.Popen[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("CHAT_", "EKBO_"))}
        return subprocess.Popen(
            [sys.executable, str(run.ROOT / "examples/chat/run.py")],
            env={**inherited, "PORT": str(port), "DEMO_PORT": str(demo_port), "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_starts_both_and_leaves_nothing(self, tmp_path: Path, number: signal.Signals) -> None:
        port, demo_port = free_port(), free_port()
        with self.start(port, demo_port, tmp_path) as process:
            assert process.stdout is not None
            try:
                first = process.stdout.readline()
                assert first == f"The chat is ready: open http://127.0.0.1:{demo_port}/ in two browser windows.\n"
                for url in (f"http://{HOST}:{demo_port}/", f"http://{HOST}:{port}/ping"):
                    with urllib.request.urlopen(url, timeout=5) as answer:
                        assert answer.status == 200
                children = children_of(process.pid)
                assert len(children) == 2
            finally:
                process.send_signal(number)
                out, err = process.communicate(timeout=40)
        assert process.returncode == 0, err
        assert out.endswith("Both servers have ended.\n")
        assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []
        assert list(tmp_path.iterdir()) == []
        run.check_port(HOST, port, "PORT")
        run.check_port(HOST, demo_port, "DEMO_PORT")

    @pytest.mark.parametrize("variable", ["PORT", "DEMO_PORT"])
    def test_a_port_that_is_taken_is_named(self, tmp_path: Path, variable: str) -> None:
        port, demo_port = free_port(), free_port()
        with socket.create_server((HOST, port if variable == "PORT" else demo_port)) as taken:
            with self.start(port, demo_port, tmp_path) as process:
                out, err = process.communicate(timeout=40)
            number = taken.getsockname()[1]
        assert process.returncode == 1
        assert out == ""
        assert err == (
            f"Port {number} on 127.0.0.1 can't be used: Address already in use. Choose another one with {variable}=…\n"
        )
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("text", ["0", "65536", "-1", "9180x", "٣"])
    def test_a_port_that_is_none_is_named(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        monkeypatch.setenv("PORT", text)
        with pytest.raises(run.StartError, match=r"^PORT: expected a port number from 1 to 65535 but got "):
            run.port_of("PORT", 9180)

    def test_a_server_that_dies_ends_the_other(self, tmp_path: Path) -> None:
        port, demo_port = free_port(), free_port()
        with self.start(port, demo_port, tmp_path) as process:
            assert process.stdout is not None
            try:
                assert "ready" in process.stdout.readline()
                children = children_of(process.pid)
                os.kill(children[0], signal.SIGKILL)
            finally:
                _, err = process.communicate(timeout=40)
        assert process.returncode == 1
        assert "One of the two servers ended" in err
        assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
