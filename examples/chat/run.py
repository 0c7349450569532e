"""Start the proxy and the chat as each other's backend: `python examples/chat/run.py`. Ctrl-C ends both.

PORT (9180) is the proxy's port, DEMO_PORT (9181) the page's, HOST (127.0.0.1) the IPv4 address both listen on.
"""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[2]
START_LIMIT = 30.0  # seconds until both must answer
STOP_LIMIT = 15.0  # seconds a server gets to end by itself
PAUSE = 0.1  # seconds between two looks


class StartError(Exception):
    """The demo can't run; the text says why and what to do."""


class Stop:
    """Set by SIGINT and SIGTERM; looked at between two steps, so that no step is left half done."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def loopback(host: str) -> str:
    """The address at which this machine reaches a server that listens on `host`."""
    return "127.0.0.1" if host == "0.0.0.0" else host


def proxy_settings(host: str, port: int, demo_port: int, secret: str) -> dict[str, str]:
    """The proxy's environment: the chat is its backend."""
    backend = f"http://{loopback(host)}:{demo_port}"
    return {
        "EKBO_HOST": host,
        "EKBO_PORT": str(port),
        "EKBO_CONNECT_CALLBACK_URL": f"{backend}/connect",
        "EKBO_ESTABLISH_CALLBACK_URL": f"{backend}/establish",
        "EKBO_RECEIVE_CALLBACK_URL": f"{backend}/receive",
        "EKBO_CLOSE_CALLBACK_URL": f"{backend}/close",
        # The page comes from another port of the same host; no other site may use its visitors' cookies.
        "EKBO_ORIGIN_POLICY": "same_hostname",
        # One reader that is slow for a moment shall not make the backend wait.
        "EKBO_SEND_QUEUE_SIZE": "100",
        "EKBO_SEND_TIMEOUT": "1s",
        "EKBO_SUPPRESS_ACCESS_LOG": "true",
        "EKBO_DRAIN_WINDOW": "0",
        "EKBO_PROXY_SET_HEADER": f'{{X-Chat-Callback-Secret: "{secret}"}}',
    }


def demo_settings(host: str, port: int, secret: str, database: Path) -> dict[str, str]:
    """The chat's environment: where its proxy is and what both know."""
    return {
        "CHAT_PROXY_URL": f"http://{loopback(host)}:{port}",
        "CHAT_CALLBACK_SECRET": secret,
        "CHAT_DATABASE": str(database),
    }


def start_proxy(settings: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return _start([sys.executable, "manage.py", "runproxy"], settings)


def start_demo(host: str, demo_port: int, settings: Mapping[str, str]) -> subprocess.Popen[bytes]:
    listen = f"{host}:{demo_port}"
    config = "python:examples.chat.gunicorn_conf"
    command = [sys.executable, "-m", "gunicorn", "-c", config, "-b", listen, "examples.chat.app:create_app()"]
    return _start(command, settings)


def _start(command: list[str], settings: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C in the terminal reaches only us, and we end both in order.
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **settings}, start_new_session=True)


def check_port(host: str, port: int, variable: str) -> None:
    """Raises StartError if somebody listens there already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StartError(
                f"Port {port} on {host} can't be used: {error.strerror}. Choose another one with {variable}=…"
            ) from None


def wait_until_up(name: str, process: subprocess.Popen[bytes], url: str, stop_signal: Stop) -> None:
    """Return when `url` answers 200, or when asked to stop; raises StartError if neither happens in time."""
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        if stop_signal.asked:
            return
        if (status := process.poll()) is not None:
            raise StartError(f"{name} ended with status {status} before it answered; its own words are above.")
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(PAUSE)
    raise StartError(f"{name} did not answer at {url} within {START_LIMIT:.0f} seconds.")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and everything it started."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            print(f"Process {process.pid} doesn't end by itself and is killed.", file=sys.stderr)
    # Its workers, if it left any: the group is its own, made in _start.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(STOP_LIMIT)


def port_of(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise StartError(f"{variable}: expected a port number from 1 to 65535 but got {text!r}.")
    return int(text)


@contextlib.contextmanager
def running(host: str, port: int, demo_port: int, stop_signal: Stop) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Proxy and chat, both answering (or asked to stop); ended, with their files, when the block is left."""
    check_port(host, port, "PORT")
    check_port(host, demo_port, "DEMO_PORT")
    secret = secrets.token_urlsafe(24)
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="chat-demo-"))
        database = Path(os.environ.get("CHAT_DATABASE") or f"{directory}/chat.sqlite3")
        # Ended in reverse order: the proxy first, so that it can tell the chat of the sessions it closes.
        demo = start_demo(host, demo_port, demo_settings(host, port, secret, database))
        stack.callback(stop, demo)
        proxy = start_proxy(proxy_settings(host, port, demo_port, secret))
        stack.callback(stop, proxy)
        wait_until_up("The chat", demo, f"http://{loopback(host)}:{demo_port}/", stop_signal)
        wait_until_up("The proxy", proxy, f"http://{loopback(host)}:{port}/ping", stop_signal)
        yield [proxy, demo]


def main() -> int:
    stop_signal = Stop()
    signal.signal(signal.SIGINT, stop_signal.ask)
    signal.signal(signal.SIGTERM, stop_signal.ask)
    host = os.environ.get("HOST") or "127.0.0.1"
    try:
        port, demo_port = port_of("PORT", 9180), port_of("DEMO_PORT", 9181)
        if port == demo_port:
            raise StartError(f"PORT and DEMO_PORT are both {port}; they must differ.")
        with running(host, port, demo_port, stop_signal) as processes:
            if not stop_signal.asked:
                shown = loopback(host)
                print(f"The chat is ready: open http://{shown}:{demo_port}/ in two browser windows.")
                print(f"The proxy listens at ws://{shown}:{port}/connect; its figures: http://{shown}:{port}/stats")
                print("Ctrl-C ends both.", flush=True)
            while not stop_signal.asked:
                if any(process.poll() is not None for process in processes):
                    raise StartError("One of the two servers ended, so the other was ended too; its words are above.")
                time.sleep(PAUSE)
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    print("Both servers have ended.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
