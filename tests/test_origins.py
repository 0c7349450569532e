"""Origin policies: a table, with the tricks that attackers try."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.origins import normalise_origin, origin_allowed

LIST = frozenset({"https://good.example", "http://localhost:3000"})


def allowed(policy: str, host: str, *origins: str, listed: frozenset[str] = frozenset()) -> bool:
    headers = [(b"host", host.encode()), *((b"origin", origin.encode()) for origin in origins)]
    return origin_allowed(headers, policy, listed)


@pytest.mark.parametrize(
    ("policy", "host", "origin", "expected"),
    [
        ("none", "a.example", "https://evil.example", True),
        ("none", "a.example", "null", True),
        ("same_origin", "a.example", "https://a.example", True),
        ("same_origin", "A.Example:443", "https://a.example", True),
        ("same_origin", "a.example:9180", "http://a.example:9180", True),
        ("same_origin", "a.example:9180", "http://a.example", False),
        ("same_origin", "a.example", "https://a.example.evil.example", False),
        ("same_origin", "a.example", "https://evil-a.example", False),
        ("same_origin", "a.example", "https://evil.example/a.example", False),
        ("same_origin", "a.example", "https://a.example@evil.example", False),
        ("same_origin", "a.example", "https://evil.example@a.example", False),
        ("same_origin", "a.example", "null", False),
        ("same_origin", "a.example", "", False),
        ("same_origin", "a.example", "https://", False),
        ("same_origin", "a.example", "https://a.example:99999", False),
        ("same_origin", "[::1]:9180", "http://[::1]:9180", True),
        ("same_hostname", "a.example", "http://a.example:3000", True),
        ("same_hostname", "a.example:9180", "https://a.example", True),
        ("same_hostname", "a.example", "https://b.a.example", False),
        ("same_hostname", "a.example", "https://a.example.", False),
    ],
)
def test_policies(policy: str, host: str, origin: str, expected: bool) -> None:
    assert allowed(policy, host, origin) is expected


@pytest.mark.parametrize("policy", ["none", "same_origin", "same_hostname"])
def test_no_origin_is_no_browser(policy: str) -> None:
    assert allowed(policy, "a.example")


@pytest.mark.parametrize("policy", ["same_origin", "same_hostname"])
def test_two_origins_are_refused(policy: str) -> None:
    assert not allowed(policy, "a.example", "https://a.example", "https://a.example")


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("https://good.example", True),
        ("https://good.example:443", True),
        ("HTTPS://GOOD.example", True),
        ("http://localhost:3000", True),
        ("http://good.example", False),
        ("https://good.example.evil.example", False),
        ("https://host.example", False),  # the own host isn't in the list
        ("null", False),
    ],
)
def test_allow_list(origin: str, expected: bool) -> None:
    assert allowed("listed", "host.example", origin, listed=LIST) is expected


@given(st.text())
def test_normalised_origins_stay_as_they_are(text: str) -> None:
    origin = normalise_origin(text)
    assert origin is None or normalise_origin(origin) == origin
