"""Who may use the API: a table of peers, headers and configurations (faults: Attacks)."""

import contextlib
import hmac
import time
from collections.abc import Callable
from hmac import compare_digest
from ipaddress import ip_network
from typing import Any

import pytest

from proxy import tokens
from proxy.access import admit, check_access
from proxy.conf import Options
from proxy.exceptions import ApiError, Forbidden, Unauthorized
from tests.browser import chromium
from tests.clients import client, receive, send
from tests.servers import Servers

pytestmark = pytest.mark.usefixtures("clean_logs")

OPEN = Options()
KEYS = Options(api_keys=("first-key-0123456", "second-key-012345"))
ALLOW = Options(api_allow=(ip_network("10.0.0.0/8"),))
BOTH = Options(api_keys=KEYS.api_keys, api_allow=ALLOW.api_allow)


def ask(options: Options, client: str | None, **headers: str) -> Any:
    return ask_for(check_access, options, client, headers)


def ask_for(check: Callable[..., Any], options: Options, client: str | None, headers: dict[str, str]) -> Any:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    server = ("/run/proxy.sock", None) if client is None else ("127.0.0.1", 9180)
    scope = {"client": (client, 5) if client is not None else None, "server": server, "headers": raw}
    return check(scope, options)


@pytest.mark.parametrize(
    ("options", "client", "headers"),
    [
        (OPEN, "127.0.0.1", {}),
        (OPEN, "127.8.9.1", {}),
        (OPEN, "::1", {}),
        (OPEN, "::ffff:127.0.0.1", {}),
        (OPEN, None, {}),
        (KEYS, "8.8.8.8", {"authorization": "Bearer first-key-0123456"}),
        (KEYS, "8.8.8.8", {"authorization": "bearer  second-key-012345"}),
        (KEYS, "127.0.0.1", {"authorization": "Bearer first-key-0123456", "x_forwarded_for": "1.2.3.4"}),
        (KEYS, "8.8.8.8", {"authorization": "Bearer first-key-0123456", "origin": "https://ops.example"}),
        (ALLOW, "10.1.2.3", {}),
        (ALLOW, "::ffff:10.1.2.3", {}),
        (ALLOW, "127.0.0.1", {}),
        (BOTH, "10.1.2.3", {}),
    ],
)
def test_allowed(options: Options, client: str | None, headers: dict[str, str]) -> None:
    ask(options, client, **headers)


@pytest.mark.parametrize(
    ("options", "client", "headers", "error"),
    [
        (OPEN, "8.8.8.8", {}, Forbidden),
        (OPEN, "10.1.2.3", {}, Forbidden),
        (OPEN, "unknown", {}, Forbidden),
        (OPEN, "127.0.0.1", {"x_forwarded_for": "1.2.3.4"}, Forbidden),
        (OPEN, "127.0.0.1", {"forwarded": "for=1.2.3.4"}, Forbidden),
        (OPEN, "127.0.0.1", {"x_real_ip": "127.0.0.1"}, Forbidden),
        (OPEN, None, {"via": "1.1 front"}, Forbidden),
        (OPEN, "127.0.0.1", {"origin": "http://evil.example"}, Forbidden),
        (OPEN, None, {"origin": "null"}, Forbidden),
        (ALLOW, "10.1.2.3", {"origin": "http://10.1.2.3"}, Forbidden),
        (KEYS, "127.0.0.1", {}, Unauthorized),
        (KEYS, "8.8.8.8", {"authorization": "Bearer wrong-key-0123456"}, Unauthorized),
        (KEYS, "8.8.8.8", {"authorization": "Bearer"}, Unauthorized),
        (KEYS, "8.8.8.8", {"authorization": "Basic first-key-0123456"}, Unauthorized),
        (KEYS, "8.8.8.8", {"authorization": "first-key-0123456"}, Unauthorized),
        (OPEN, "127.0.0.1", {"x_forwarded_port": "443"}, Forbidden),
        (OPEN, "127.0.0.1", {"cf_connecting_ip": "1.2.3.4"}, Forbidden),
        (OPEN, "127.0.0.1", {"true_client_ip": "1.2.3.4"}, Forbidden),
        (OPEN, "127.0.0.1", {"x_client_ip": "1.2.3.4"}, Forbidden),
        (OPEN, "127.0.0.1", {"x_cluster_client_ip": "1.2.3.4"}, Forbidden),
        (OPEN, "127.0.0.1", {"cdn_loop": "front"}, Forbidden),
        (OPEN, "127.0.0.1", {"x_forwarded_anything": "1"}, Forbidden),
        (ALLOW, "11.1.2.3", {}, Forbidden),
        (ALLOW, "10.1.2.3", {"x_forwarded_for": "1.2.3.4"}, Forbidden),
        (BOTH, "10.1.2.3", {"via": "1.1 front"}, Unauthorized),
        (BOTH, "11.1.2.3", {}, Unauthorized),
    ],
)
def test_refused(options: Options, client: str | None, headers: dict[str, str], error: type[ApiError]) -> None:
    with pytest.raises(error, match="not allowed"):
        ask(options, client, **headers)


def test_header_names_with_underscores_are_no_way_around() -> None:
    header = (b"x_forwarded_for", b"1.2.3.4")
    with pytest.raises(Forbidden):
        check_access({"client": ("127.0.0.1", 5), "server": ("127.0.0.1", 9180), "headers": [header]}, OPEN)


@pytest.mark.parametrize("given", [*KEYS.api_keys, "wrong-key-0123456"])
def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    """Whichever is right: by hmac.compare_digest, and all of them."""
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return compare_digest(one, other)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    with contextlib.suppress(Unauthorized):
        ask(KEYS, "8.8.8.8", authorization=f"Bearer {given}")
    assert compared == [(given.encode(), key.encode()) for key in KEYS.api_keys]


def test_a_tcp_peer_that_has_gone_is_not_a_unix_socket() -> None:
    with pytest.raises(Forbidden):
        check_access({"client": None, "server": ("127.0.0.1", 9180), "headers": []}, OPEN)


def test_two_authorization_headers_are_none() -> None:
    header = (b"authorization", b"Bearer first-key-0123456")
    with pytest.raises(Unauthorized):
        check_access({"client": ("127.0.0.1", 5), "headers": [header, header]}, KEYS)


@pytest.mark.parametrize("options", [OPEN, KEYS, ALLOW])
@pytest.mark.parametrize("client", ["127.0.0.1", "8.8.8.8", "10.1.2.3"])
def test_a_token_counts_wherever_it_comes_from(monkeypatch: pytest.MonkeyPatch, options: Options, client: str) -> None:
    """Also where its sender could do more without it."""
    monkeypatch.setattr(tokens, "_revoked", frozenset())
    grant = tokens.Grant("x", "room1.", ("send",), int(time.time()) + 60)
    for name in ("x_forwarded_for", "x_other"):
        headers = {"authorization": f"Bearer {tokens.sign(grant)}", name: "1.2.3.4"}
        assert ask_for(admit, options, client, headers) == grant
        with pytest.raises(Forbidden, match="expected one of EKBO_API_KEYS, found a token"):
            ask(options, client, **headers)
        with pytest.raises(Unauthorized, match="token"):
            ask(options, client, authorization="Bearer eyJ.eyJ.x")


def test_a_key_may_look_like_a_token() -> None:
    key = "eyJ.a-key-like.a-token"
    assert ask_for(admit, Options(api_keys=(key,)), "8.8.8.8", {"authorization": f"Bearer {key}"}) is None


async def test_a_web_page_in_a_browser_on_this_host(servers: Servers, key: str) -> None:
    """Neither from another origin, nor from one whose name leads to this host meanwhile (DNS rebinding)."""
    server = await servers.get("uvicorn")
    push = "([url, key]) => fetch(url, {method: 'POST', headers: {'X-Kuiperbelt-Session': key}, body: 'x'})"
    async with (
        client(server, key) as connection,
        chromium("--host-resolver-rules=MAP evil.example 127.0.0.1") as browser,
    ):
        page = await browser.new_page()
        await page.goto(f"http://evil.example:{server.port}/ping")
        assert await page.evaluate(f"{push}.then(answer => answer.status)", ["/send", key]) == 403
        other = f"http://127.0.0.1:{server.port}/send"
        assert await page.evaluate(f"{push}.catch(error => error.name)", [other, key]) == "TypeError"
        assert (await send(server, key, b"from a program")).status == 200
        assert await receive(connection) == "from a program"
