"""How one option's value is read: text from YAML or the environment, a list or a mapping from YAML.

Each function raises ValueError with what was expected; `conf.load` adds where and what was found. Pure rules.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml

from proxy.forwarding import Network
from proxy.origins import POLICIES, normalise_origin

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_MAX_DURATION = (2**63 - 1) / 1e9  # seconds, 292 years: Go counts nanoseconds in 63 bits
_DURATION_PART = r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)"
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 section 5.6.2

# What may follow the ? of a Redis URL, to be handed to redis-py.
_REDIS_ARGUMENTS = {"ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile"}

# Headers that say where a request ends, and others that have a meaning of their own.
_FRAMING = frozenset({"connection", "content-length", "transfer-encoding", "upgrade", "expect"})
_TAKEN = frozenset({"authorization", "content-type", "cookie", "host", "origin"})


@dataclass(frozen=True, slots=True)
class OriginPolicy:
    """One of kuiperbelt's policies, or (`listed`) the origins that are allowed."""

    name: str
    listed: frozenset[str] = frozenset()


def text(value: Any) -> str:
    if isinstance(value, str) and value.isprintable():
        return value
    raise ValueError("text")


def duration(value: Any) -> float:
    """Go's notation, in seconds: `0`, `500ms`, `10s`, `1m30s`."""
    written = str(value)
    if written in ("0", "+0", "-0"):
        return 0.0
    if re.fullmatch(f"\\+?(?:{_DURATION_PART})+", written):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in re.findall(_DURATION_PART, written))
        if seconds <= _MAX_DURATION:
            return seconds
    raise ValueError("a duration like 0, 500ms, 10s or 1m30s")


def positive_duration(value: Any) -> float:
    seconds = duration(value)
    if seconds <= 0:
        raise ValueError("a duration over 0, like 500ms, 5s or 1m30s")
    return seconds


def boolean(value: Any) -> bool:
    # The words that Go's strconv.ParseBool and YAML 1.1 take.
    word = str(value).lower()
    if word in ("1", "t", "true", "yes", "on"):
        return True
    if word in ("0", "f", "false", "no", "off"):
        return False
    raise ValueError("true or false")


def _whole(value: Any, least: int, most: int, expected: str) -> int:
    written = str(value)
    if written.isascii() and written.isdigit() and len(written) < 12 and least <= int(written) <= most:
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
    expected = "a URL like http://backend:8000/connect, without user (proxy_set_header can set Authorization)"
    try:
        parts = urlsplit(value if isinstance(value, str) else "")
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        known = known and "@" not in parts.netloc
    except ValueError:
        known = False
    if not known or not str(value).isascii() or not str(value).isprintable() or " " in value or parts.fragment:
        raise ValueError(expected)
    return str(value)


def header_name(value: Any) -> str:
    if isinstance(value, str) and _TOKEN.fullmatch(value) and value.lower() not in _FRAMING | _TAKEN:
        return value
    raise ValueError("a header's name that isn't used otherwise, like X-Kuiperbelt-Session")


def header_map(value: Any) -> tuple[tuple[str, str], ...]:
    expected = "a mapping of header names to text, like {X-Foo: foo, X-Bar: ''}, none that frames the request"
    if isinstance(value, str):
        try:
            value = yaml.load(value, Loader=yaml.BaseLoader)  # only text  # noqa: S506  # nosec B506
        except (yaml.YAMLError, RecursionError):
            raise ValueError(expected) from None
    if not isinstance(value, dict) or not all(isinstance(text, str) for item in value.items() for text in item):
        raise ValueError(expected)
    for name, content in value.items():
        if not _TOKEN.fullmatch(name) or not content.isprintable() or content != content.strip():
            raise ValueError(expected)
        if name.lower() in _FRAMING:
            raise ValueError(expected)
    return tuple(value.items())


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


def redis_urls(value: Any) -> tuple[str, ...]:
    only = ", ".join(sorted(_REDIS_ARGUMENTS))
    expected = f"URLs like redis://host:6379/0 or rediss://:password@host, separated by commas; after a ? only {only}"
    urls = tuple(_items(value, expected))
    try:
        known = all(
            (parts := urlsplit(item)).scheme in ("redis", "rediss", "unix")
            and (parts.path if parts.scheme == "unix" else parts.hostname)
            and parts.port != 0
            and (parts.scheme == "unix" or re.fullmatch(r"(/\d*)?", parts.path))
            and {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)} <= _REDIS_ARGUMENTS
            and (parts.scheme == "rediss" or not parts.query)
            for item in urls
        )
    except ValueError:
        known = False
    # A Redis has one set of channels for all its databases, so it can't be two shards.
    if not known or len({_redis_place(item) for item in urls}) < len(urls):
        raise ValueError(expected)
    return urls


def database_url(value: Any) -> str:
    expected = "a URL like postgres://user:password@host:5432/name or sqlite:////var/lib/kuiperbelt.sqlite3"
    try:
        parts = urlsplit(value if isinstance(value, str) else "")
        known = parts.port != 0 and parts.path not in ("", "/") and unquote(str(value)).isprintable()
    except ValueError:
        known = False
    if not known or parts.scheme not in ("postgres", "postgresql", "sqlite"):
        raise ValueError(expected)
    return str(value)


def _redis_place(item: str) -> tuple[str | int | None, ...]:
    parts = urlsplit(item)
    return (parts.path,) if parts.scheme == "unix" else (parts.hostname, parts.port or 6379)


def redis_prefix(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[0-9A-Za-z\-_.:]{1,64}", value):
        return value
    raise ValueError("1-64 letters, digits, or one of - _ . :")


def addresses(value: Any) -> tuple[tuple[str, int], ...]:
    expected = "addresses like sentinel-1:26379, [::1]:26379, separated by commas"
    found: list[tuple[str, int]] = []
    for item in _items(value, expected):
        try:
            parts = urlsplit(f"//{item}")
            port = 26379 if parts.port is None else parts.port
        except ValueError:
            raise ValueError(expected) from None
        if not parts.hostname or port == 0 or parts.path or parts.username:
            raise ValueError(expected)
        found.append((parts.hostname, port))
    return tuple(found)


def secrets(value: Any) -> tuple[str, ...]:
    expected = "keys of at least 16 visible ASCII characters, separated by commas"
    keys = tuple(_items(value, expected))
    if all(re.fullmatch(r"[!-~]{16,}", key) for key in keys):
        return keys
    raise ValueError(expected)


def secret(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[!-~]{32,}", value):
        return value
    raise ValueError("a random key of at least 32 visible ASCII characters")


def origin_policy(value: Any) -> OriginPolicy:
    if value in POLICIES:
        return OriginPolicy(value)
    expected = f"{', '.join(POLICIES)}, or a list of origins like https://example.com"
    return OriginPolicy("listed", frozenset(_origins(value, expected)))


def web_origins(value: Any) -> tuple[str, ...]:
    expected = "a list of origins like https://ops.example.com, http or https"
    origins = _origins(value, expected)
    if not all(re.match("https?:", origin) for origin in origins):
        raise ValueError(expected)
    return tuple(origins)


def _origins(value: Any, expected: str) -> list[str]:
    origins = [normalise_origin(item.lower()) for item in _items(value, expected)]
    known = [origin for origin in origins if origin]
    if not known or len(known) < len(origins):
        raise ValueError(expected)
    return known
