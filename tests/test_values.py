"""Reading one option's value, from YAML types and from the environment's text."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import choices, values


@pytest.mark.parametrize(
    ("parse", "value", "expected"),
    [
        (values.duration, "0", 0.0),
        (values.duration, "500ms", 0.5),
        (values.duration, "10s", 10.0),
        (values.duration, "2562047h", 9223369200.0),
        (values.duration, "1m30s", 90.0),
        (values.duration, "1h2m3.5s", 3723.5),
        (values.duration, ".5s", 0.5),
        (values.duration, "250µs", 0.00025),
        (values.boolean, "true", True),
        (values.boolean, "1", True),
        (values.boolean, "off", False),
        (values.port, "9180", 9180),
        (values.count, "0", 0),
        (values.path, "/ws/connect", "/ws/connect"),
        (values.url, "http://backend:8000/connect?key=1", "http://backend:8000/connect?key=1"),
        (values.header_name, "X-Session", "X-Session"),
        (values.header_map, "{X-Foo: foo, X-Bar: ''}", (("X-Foo", "foo"), ("X-Bar", ""))),
        (values.header_map, "{X-V: 1.10, X-Zip: 0123, X-On: on}", (("X-V", "1.10"), ("X-Zip", "0123"), ("X-On", "on"))),
        (values.header_map, {"X-Foo": "1", "X-Bar": ""}, (("X-Foo", "1"), ("X-Bar", ""))),
        (values.secrets, "0123456789abcdef, fedcba9876543210", ("0123456789abcdef", "fedcba9876543210")),
        (values.redis_urls, "redis://a:7000/1, rediss://:p@b", ("redis://a:7000/1", "rediss://:p@b")),
        (values.redis_urls, "unix:///run/redis.sock", ("unix:///run/redis.sock",)),
        (values.redis_urls, "rediss://a?ssl_cert_reqs=none", ("rediss://a?ssl_cert_reqs=none",)),
        (values.redis_prefix, "chat.eu-1", "chat.eu-1"),
        (
            values.addresses,
            "sentinel-1, 10.0.0.1:7000,[::1]:26379",
            (("sentinel-1", 26379), ("10.0.0.1", 7000), ("::1", 26379)),
        ),
        (values.origin_policy, "same_origin", values.OriginPolicy("same_origin")),
        (values.web_origins, "https://A.example:443, http://b:8080", ("https://a.example", "http://b:8080")),
        (values.secret, "k" * 32, "k" * 32),
        (
            values.origin_policy,
            ["https://A.example:443", "http://b.example:81"],
            values.OriginPolicy("listed", frozenset({"https://a.example", "http://b.example:81"})),
        ),
        (values.origin_policy, "https://a.example", values.OriginPolicy("listed", frozenset({"https://a.example"}))),
    ],
)
def test_values(parse: Callable[[Any], Any], value: Any, expected: Any) -> None:
    assert parse(value) == expected


@pytest.mark.parametrize(
    ("parse", "value"),
    [
        (values.duration, "10"),
        (values.duration, "2562048h"),
        (values.database_url, "sqlite:///%00"),
        (values.duration, "-1s"),
        (values.duration, "1 s"),
        (values.duration, "1d"),
        (values.duration, "s"),
        (values.positive_duration, "0"),
        (values.boolean, "maybe"),
        (values.port, "65536"),
        (values.port, "-1"),
        (values.port, "abc"),
        (values.port, "9" * 5000),
        (values.count, "1.5"),
        (values.size, "0"),
        (values.path, "connect"),
        (values.path, "/a?b"),
        (values.path, "/a b"),
        (values.url, "backend/connect"),
        (values.url, "ftp://backend/"),
        (values.url, "http:///connect"),
        (values.url, "http://a:99999/"),
        (values.url, "http://a/b c"),
        (values.url, "http://a/\n"),
        (values.url, "http://user:password@a/"),
        (values.url, 5),
        (values.header_name, "X Session"),
        (values.header_name, ""),
        (values.header_map, "[1]"),
        (values.header_map, "{"),
        (values.header_map, {"X Foo": "1"}),
        (values.header_map, {"X-Foo": "a\r\nb"}),
        (values.header_map, {"X-Foo": ["a"]}),
        (values.header_map, {"Content-Length": "5"}),
        (values.header_name, "Cookie"),
        (values.header_name, "Content-Length"),
        (values.networks, "10.0.0.0/99"),
        (values.networks, 5),
        (values.secrets, "short"),
        (values.origin_policy, "same_site"),
        (values.web_origins, "ops.example.com"),
        (values.web_origins, "ftp://ops.example.com"),
        (values.web_origins, "https://ops.example.com/admin/"),
        (values.web_origins, []),
        (values.secret, "k" * 31),
        (values.secret, "with spaces, of 32 characters or more"),
        (values.origin_policy, []),
        (values.origin_policy, ["https://a.example/path"]),
        (values.redis_urls, "a:6379"),
        (values.redis_urls, "http://a"),
        (values.redis_urls, "redis://"),
        (values.redis_urls, "redis://a:b"),
        (values.redis_urls, "redis://a/db"),
        (values.redis_urls, "redis://a,redis://a"),
        (values.redis_urls, "redis://a,redis://:p@a:6379/1"),
        (values.redis_urls, "redis://a?protocol=2"),
        (values.redis_urls, "rediss://a?db=x"),
        (values.redis_urls, "redis://a?ssl_cert_reqs=none"),
        (values.redis_prefix, "a b"),
        (values.addresses, "a:port"),
        (values.addresses, "a:0"),
        (values.addresses, "a/b"),
    ],
)
def test_values_refused(parse: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(ValueError, match=r".") as refusal:
        parse(value)
    assert "invalid literal" not in str(refusal.value)  # what was expected, not what Python tripped over


@given(st.one_of(st.text(), st.integers(), st.booleans(), st.lists(st.text()), st.dictionaries(st.text(), st.text())))
def test_whatever_is_written_gives_a_value_or_a_value_error(value: Any) -> None:
    parsers: list[Callable[[Any], Any]] = [
        values.duration, values.boolean, values.port, values.count, values.size, values.path, values.url,
        values.header_name, values.header_map, values.networks, values.secrets, values.origin_policy, values.text,
        values.redis_urls, values.redis_prefix, values.addresses, choices.tracing,
    ]  # fmt: skip
    for parse in parsers:
        with contextlib.suppress(ValueError):
            parse(value)
