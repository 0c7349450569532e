"""Requests, byte for byte; and what would be read as something else isn't sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http_request import Template, place_of


@pytest.mark.parametrize(
    ("url", "tls", "host", "port", "authority", "path", "query"),
    [
        ("http://backend", False, "backend", 80, "backend", "/", ""),
        ("http://Backend:80/x", False, "backend", 80, "backend", "/x", ""),
        ("https://backend:443/?a=b%20c", True, "backend", 443, "backend", "/", "a=b%20c"),
        ("https://backend:80/x/", True, "backend", 80, "backend:80", "/x/", ""),
        ("http://[::1]:8000/x?y", False, "::1", 8000, "[::1]:8000", "/x", "y"),
    ],
)
def test_places(url: str, tls: bool, host: str, port: int, authority: str, path: str, query: str) -> None:
    place = place_of(url)
    assert (place.tls, place.host, place.port) == (tls, host, port)
    assert (place.authority, place.path, place.query) == (authority, path, query)


def test_without_and_with_a_body() -> None:
    get, post = (Template(method, [("Host", "a")]) for method in ("GET", "POST"))
    assert get.request("/?q", [("X", "é"), ("X", "b")]) == (
        b"GET /?q HTTP/1.1\r\nHost: a\r\nX: \xc3\xa9\r\nX: b\r\n\r\n"
    )
    assert post.request("/", [], b"") == b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    assert post.request("/", [], b"\r\n\0") == b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n\r\n\0"


@given(st.text(), st.lists(st.tuples(st.text(min_size=1), st.text()), max_size=3))
def test_whatever_is_to_be_sent_is_one_request(target: str, headers: list[tuple[str, str]]) -> None:
    """As many lines as there are headers, or a ValueError."""
    try:
        request = Template("POST", [("Host", "a")]).request(target, headers, b"body")
    except ValueError:
        text = "".join([target, *(part for header in headers for part in header)])
        assert {"\r", "\n", "\0"} & {*text} or " " in target or any("\ud800" <= one <= "\udfff" for one in text)
        return
    head, _, body = request.partition(b"\r\n\r\n")
    assert body == b"body"
    lines = head.split(b"\r\n")
    assert len(lines) == 3 + len(headers)
    assert not any(set(line) & {0, 10, 13} for line in lines)
    assert lines[0].count(b" ") == 2


@pytest.mark.parametrize("bad", ["a\r\nX-Key: forged", "a\nb", "a\rb", "a\0b", "\ud800"])
def test_smuggling(bad: str) -> None:
    template = Template("GET", [("Host", "a")])
    for target, headers in ((f"/{bad}", []), ("/", [("X", bad)]), ("/", [(bad, "x")])):
        with pytest.raises(ValueError, match="can't"):
            template.request(target, headers)
