"""How one option's value is read: from YAML (typed) or from the environment (text) to what the program uses.

Each function raises ValueError with what was expected; `conf.load` adds where and what was found. Pure rules.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any
from urllib.parse import urlsplit

import yaml

from proxy.forwarding import Network
from proxy.origins import POLICIES, normalise_origin

DEPLOYMENT_VARIABLES = frozenset({"EKBO_CONFIG", "EKBO_SECRET_KEY", "EKBO_ALLOWED_HOSTS", "EKBO_DEBUG"})
"""Variables that kbproject/settings.py reads beside the options."""

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PART = r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)"
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2


@dataclass(frozen=True, slots=True)
class OriginPolicy:
    """One of kuiperbelt's policies, or (`listed`) the origins that are allowed."""

    name: str
    listed: frozenset[str] = frozenset()


def text(value: Any) -> str:
    if isinstance(value, str | int) and not isinstance(value, bool) and str(value).isprintable():
        return str(value)
    raise ValueError("text")


def duration(value: Any) -> float:
    """Go's notation, in seconds: `0`, `500ms`, `10s`, `1m30s`."""
    written = str(value)
    if written in ("0", "+0", "-0") and not isinstance(value, bool):
        return 0.0
    if re.fullmatch(f"\\+?(?:{_DURATION_PART})+", written):
        return sum(float(number) * _UNITS[unit] for number, unit in re.findall(_DURATION_PART, written))
    raise ValueError("a duration like 0, 500ms, 10s or 1m30s")


def positive_duration(value: Any) -> float:
    seconds = duration(value)
    if seconds <= 0:
        raise ValueError("a duration over 0, like 500ms, 5s or 1m30s")
    return seconds


def boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    # The words that Go's strconv.ParseBool and YAML 1.1 take.
    word = str(value).lower()
    if word in ("1", "t", "true", "yes", "on"):
        return True
    if word in ("0", "f", "false", "no", "off"):
        return False
    raise ValueError("true or false")


def _whole(value: Any, least: int, most: int, expected: str) -> int:
    written = str(value)
    if written.isascii() and written.isdigit() and not isinstance(value, bool) and least <= int(written) <= most:
        return int(written)
    raise ValueError(expected)


def port(value: Any) -> int:
    return _whole(value, 0, 65535, "a port from 0 to 65535")


def count(value: Any) -> int:
    return _whole(value, 0, 10**6, "a whole number from 0 to 1000000")


def size(value: Any) -> int:
    return _whole(value, 1, 1 << 30, "bytes, from 1 to 1073741824")


def path(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"/[!$&'()*+,\-./0-9:;=@A-Z_a-z~]*", value):
        return value
    raise ValueError("a path like /connect, without query")


def url(value: Any) -> str:
    expected = "a URL like http://backend:8000/connect"
    try:
        parts = urlsplit(value if isinstance(value, str) else "")
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    if not known or not str(value).isascii() or not str(value).isprintable() or " " in value or parts.fragment:
        raise ValueError(expected)
    return str(value)


def header_name(value: Any) -> str:
    if isinstance(value, str) and _TOKEN.fullmatch(value):
        return value
    raise ValueError("a header's name, like X-Kuiperbelt-Session")


def header_map(value: Any) -> tuple[tuple[str, str], ...]:
    expected = "a mapping of header names to values, like {X-Foo: foo, X-Bar: ''}"
    if isinstance(value, str):
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ValueError(expected) from None
    if not isinstance(value, dict):
        raise ValueError(expected)
    headers = {str(name): "" if content is None else str(content) for name, content in value.items()}
    for name, content in headers.items():
        if not _TOKEN.fullmatch(name) or not content.isprintable() or content != content.strip():
            raise ValueError(expected)
    return tuple(headers.items())


def _items(value: Any, expected: str) -> Iterable[str]:
    if isinstance(value, str):
        return [item for item in re.split(r"[,\s]+", value) if item]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise ValueError(expected)


def networks(value: Any) -> tuple[Network, ...]:
    expected = "networks like 10.0.0.0/8, ::1"
    try:
        return tuple(ip_network(item) for item in _items(value, expected))
    except ValueError:
        raise ValueError(expected) from None


def secrets(value: Any) -> tuple[str, ...]:
    expected = "keys of at least 16 visible ASCII characters, separated by commas"
    keys = tuple(_items(value, expected))
    if all(re.fullmatch(r"[!-~]{16,}", key) for key in keys):
        return keys
    raise ValueError(expected)


def origin_policy(value: Any) -> OriginPolicy:
    if value in POLICIES:
        return OriginPolicy(value)
    expected = f"{', '.join(POLICIES)}, or a list of origins like https://example.com"
    origins = [normalise_origin(item.lower()) for item in _items(value, expected)]
    if not origins or None in origins:
        raise ValueError(expected)
    return OriginPolicy("listed", frozenset(origin for origin in origins if origin))
