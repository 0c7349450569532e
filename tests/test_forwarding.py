"""Which headers and parameters of a client reach the backend."""

from ipaddress import ip_network
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import forwarding
from proxy.exceptions import ConnectRefused
from proxy.forwarding import Peer, callback_query, client_headers, is_in, peer, plain_address, set_headers, tells_origin

SESSION = b"x-kuiperbelt-session"


def passed(*headers: tuple[str, str]) -> list[tuple[str, str]]:
    return client_headers([(name.encode(), value.encode()) for name, value in headers], SESSION)


def test_ordinary_headers_pass_in_order_and_repeated() -> None:
    headers = [("cookie", "a=1"), ("x-b", "1"), ("cookie", "b=2"), ("authorization", "Bearer x"), ("user-agent", "é")]
    assert passed(*headers) == headers


LEFT_OUT = """
    connection keep-alive proxy-connection proxy-authorization te trailer transfer-encoding upgrade host content-length
    accept-encoding sec-websocket-key sec-websocket-version sec-websocket-extensions sec-websocket-protocol proxy
    x-kuiperbelt-endpoint x-kuiperbelt-connection x-kuiperbelt-session x-kuiperbelt-anything
    x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-ssl x-forwarded-prefix x-forwarded-user forwarded
    x-real-ip x_kuiperbelt_session with_underscore
"""


@pytest.mark.parametrize("name", LEFT_OUT.split())
def test_left_out(name: str) -> None:
    assert passed((name, "x"), ("x-kept", "1")) == [("x-kept", "1")]


def test_the_session_header_is_left_out_by_its_configured_name() -> None:
    assert client_headers([(b"x-session", b"forged"), (b"a", b"1")], b"x-session") == [("a", "1")]


def test_what_connection_names_is_left_out() -> None:
    assert passed(("connection", "Upgrade, X-User"), ("x-user", "admin"), ("a", "1")) == [("a", "1")]


@pytest.mark.parametrize("value", [b"a\x00b", b"a\rb", b"a\nb", b"\x7f", b"\xff\xfe"])
def test_control_characters_and_other_bytes_are_refused(value: bytes) -> None:
    with pytest.raises(ConnectRefused) as refusal:
        client_headers([(b"x-a", value)], SESSION)
    assert refusal.value.status == 400


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=20), st.binary(max_size=50))))
def test_client_headers_never_pass_what_they_must_not(headers: list[tuple[bytes, bytes]]) -> None:
    try:
        result = client_headers([(name.lower(), value) for name, value in headers], SESSION)
    except ConnectRefused:
        return
    for name, value in result:
        assert "_" not in name
        assert not name.startswith(("x-kuiperbelt-", "sec-websocket-"))
        assert all(character >= " " or character == "\t" for character in value)


@pytest.mark.parametrize(
    ("configured", "query", "expected"),
    [
        ("", b"", ""),
        ("", b"a=1&b=2&a=3", "a=1&b=2&a=3"),
        ("", b"a=%20+b&c", "a=%20+b&c"),
        ("secret=x", b"", "secret=x"),
        ("secret=x", b"a=1", "secret=x&a=1"),
        ("secret=x", b"secret=y&a=1&secret=z", "secret=x&a=1"),
        ("secret=x", b"s%65cret=y&a=1", "secret=x&a=1"),
        ("secret=x", b"secret&a&&", "secret=x&a"),
        ("", b"a&&", "a&&"),
        ("a+b=x", b"a%20b=y", "a+b=x"),
        ("", b"q=#x y\xff", "q=%23x%20y%FF"),
        # As other backends than Django read them.
        ("secret=x", b"a=1;secret=y;b=2&secret[]=y&b", "secret=x&a=1;b=2&b"),
        ("secret=x", b"%20secret=y&secret%00=y&secret[a][b]=y&[secret]=y&%5bsecret=y", "secret=x"),
        ("app_id=x", b"app.id=y&app%20id=y&app+id=y&app[id=y&app=y", "app_id=x&app=y"),
        ("app.id=x", b"app_id=y&appid=y", "app.id=x&appid=y"),
    ],
)
def test_callback_query(configured: str, query: bytes, expected: str) -> None:
    assert callback_query(configured, query) == expected


@given(st.binary(), st.binary())
def test_a_client_never_overrides_a_configured_parameter(before: bytes, after: bytes) -> None:
    query = callback_query("role=guest", before + b"&role=admin&" + after)
    assert parse_qsl(query)[0] == ("role", "guest")
    assert ("role", "admin") not in parse_qsl(query)
    assert query.isascii()
    assert query.isprintable()


def test_set_headers() -> None:
    headers = [("host", "a"), ("X-Foo", "1"), ("X-Bar", "2")]
    assert set_headers(headers, ()) == headers
    assert set_headers(headers, (("x-foo", "new"), ("X-BAR", ""), ("X-New", "3"))) == [
        ("host", "a"),
        ("x-foo", "new"),
        ("X-New", "3"),
    ]


FORWARDED = [(b"host", b"front"), (b"x-forwarded-for", b"1.2.3.4"), (b"x-forwarded-proto", b"https")]
PROXIES = (ip_network("10.0.0.0/8"),)


@pytest.mark.parametrize(
    ("client", "scheme", "expected"),
    [
        ("9.9.9.9", "ws", Peer("9.9.9.9", "http", "front")),
        ("9.9.9.9", "wss", Peer("9.9.9.9", "https", "front")),
        ("10.1.2.3", "ws", Peer("1.2.3.4, 10.1.2.3", "https", "front")),
        ("::ffff:10.1.2.3", "ws", Peer("1.2.3.4, 10.1.2.3", "https", "front")),
        ("", "ws", Peer("", "http", "front")),
    ],
)
def test_forwarded_headers_are_believed_from_trusted_proxies_only(client: str, scheme: str, expected: Peer) -> None:
    assert peer(FORWARDED, client, scheme, PROXIES) == expected


@pytest.mark.parametrize(
    ("forwarded_for", "address"),
    [
        ("1.2.3.4, 10.1.2.3", "1.2.3.4"),
        ("6.6.6.6, 1.2.3.4, 10.9.9.9, 10.1.2.3", "1.2.3.4"),  # the first is only the client's word
        ("1.2.3.4:50123, 10.1.2.3", "1.2.3.4"),
        ("1.2.3.4:50123, 10.9.9.9:443, 10.1.2.3", "1.2.3.4"),
        ("[2001:db8::1]:50123, 10.1.2.3", "2001:db8::1"),
        ("[2001:db8::1], 10.1.2.3", "2001:db8::1"),
        ("2001:db8::1, 10.1.2.3", "2001:db8::1"),
        ("1.2.3.4,, 10.1.2.3", "1.2.3.4"),
        (" , 10.1.2.3", "10.1.2.3"),
        ("10.9.9.9, 10.1.2.3", "10.9.9.9"),
        ("unknown, 10.1.2.3", "unknown"),
        ("", ""),
        (",", ""),
    ],
)
def test_the_client_s_address(forwarded_for: str, address: str) -> None:
    assert Peer(forwarded_for, "http", "").address(PROXIES) == address


def test_peer_headers_leave_out_what_is_unknown() -> None:
    assert Peer("", "http", "").headers() == [("X-Forwarded-Proto", "http")]


def test_caches_keep_nothing_that_is_long() -> None:
    """Names of headers may have half a megabyte, and anybody can send them."""
    caches = forwarding._tells_origin, forwarding._plain_address
    before = [cache.cache_info().currsize for cache in caches]
    assert tells_origin(b"x-forwarded-" + b"a" * 100_000)
    assert not tells_origin(b"a" * 100_000)
    assert plain_address("9" * 100_000) == "9" * 100_000
    assert [cache.cache_info().currsize for cache in caches] == before


def test_addresses() -> None:
    assert plain_address("::ffff:127.0.0.1") == "127.0.0.1"
    assert plain_address("fe80::1%eth0") == "fe80::1"
    assert plain_address("testclient") == "testclient"
    assert is_in("10.0.0.1", PROXIES)
    assert not is_in("testclient", PROXIES)
    assert not is_in("", PROXIES)
