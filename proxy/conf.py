"""Every option, in one place: name, variable, default, meaning; read from YAML and environment.

`load` collects all errors instead of stopping at the first, so that one report can name them all. Only
kbproject/settings.py calls it with the real environment; everyone else reads `options()`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import yaml
from django.conf import settings

from proxy import config_template, values
from proxy.forwarding import Network

_MISSING = object()


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the configuration."""

    where: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}"


def option(key: str, variable: str, parse: Callable[[Any], Any], default: Any, meaning: str) -> Any:
    """Declare an option: its YAML key, its environment variable, how it is read, and what it means."""
    metadata = {"key": key, "variable": variable, "parse": parse, "meaning": meaning}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Options:
    """The whole configuration (contract: Configuration). Durations are seconds, sizes are bytes."""

    port: int = option("port", "EKBO_PORT", values.port, 9180, "TCP port to listen on; 0 takes a free one")
    host: str = option("host", "EKBO_HOST", values.text, "", "address to listen on; empty: all")
    sock: str = option(
        "sock", "EKBO_UNIX_DOMAIN_SOCKET_FILENAME", values.text, "", "UNIX socket to listen on, instead of a port"
    )
    connect_path: str = option("path.connect", "EKBO_CONNECT_PATH", values.path, "/connect", "where clients connect")
    send_path: str = option("path.send", "EKBO_SEND_PATH", values.path, "/send", "where the backend pushes")
    close_path: str = option("path.close", "EKBO_CLOSE_PATH", values.path, "/close", "where the backend closes")
    stats_path: str = option("path.stats", "EKBO_STATS_PATH", values.path, "/stats", "counters for monitoring")
    ping_path: str = option("path.ping", "EKBO_PING_PATH", values.path, "/ping", "health check")
    connect_callback: str = option(
        "callback.connect", "EKBO_CONNECT_CALLBACK_URL", values.url, "", "asked whether a client may connect; required"
    )
    establish_callback: str = option(
        "callback.establish", "EKBO_ESTABLISH_CALLBACK_URL", values.url, "", "told when a session is open; empty: off"
    )
    close_callback: str = option(
        "callback.close", "EKBO_CLOSE_CALLBACK_URL", values.url, "", "told when a session has ended; empty: off"
    )
    receive_callback: str = option(
        "callback.receive", "EKBO_RECEIVE_CALLBACK_URL", values.url, "", "gets clients' frames; empty: discarded"
    )
    callback_timeout: float = option(
        "callback.timeout", "EKBO_CALLBACK_TIMEOUT", values.duration, 10.0, "for a whole callback; 0: none"
    )
    receive_reply: bool = option(
        "receive_reply", "EKBO_RECEIVE_REPLY", values.boolean, False, "send the receive callback's answer to the client"
    )
    session_header: str = option(
        "session_header", "EKBO_SESSION_HEADER_NAME", values.header_name, "X-Kuiperbelt-Session", "names sessions"
    )
    endpoint: str = option(
        "endpoint",
        "EKBO_SELF_ENDPOINT_URL",
        values.text,
        "",
        "X-Kuiperbelt-Endpoint; empty: hostname:port, without a port up to 1023",
    )
    strict_broadcast: bool = option(
        "strict_broadcast", "EKBO_STRICT_BROADCAST_MODE_SWITCH", values.boolean, False, "all sessions of a push or none"
    )
    proxy_set_header: tuple[tuple[str, str], ...] = option(
        "proxy_set_header",
        "EKBO_PROXY_SET_HEADER",
        values.header_map,
        (),
        'headers set in callbacks; "" removes',
    )
    send_timeout: float = option(
        "send_timeout", "EKBO_SEND_TIMEOUT", values.duration, 0.0, "wait for room in a full queue; 0: no limit"
    )
    send_queue_size: int = option(
        "send_queue_size", "EKBO_SEND_QUEUE_SIZE", values.count, 0, "messages queued while a client's socket is blocked"
    )
    blocked_timeout: float = option(
        "blocked_timeout",
        "EKBO_BLOCKED_TIMEOUT",
        values.positive_duration,
        5.0,
        "a session blocked this long is closed",
    )
    max_backlog_size: int = option(
        "max_backlog_size", "EKBO_MAX_BACKLOG_SIZE", values.size, 1 << 20, "bytes waiting for one client; over: closed"
    )
    max_message_size: int = option(
        "max_message_size", "EKBO_MAX_MESSAGE_SIZE", values.size, 1 << 16, "bytes of a client's message; over: 1009"
    )
    max_body_size: int = option(
        "max_body_size", "EKBO_MAX_BODY_SIZE", values.size, 1 << 20, "bytes of an API request's body; over: 413"
    )
    origin_policy: values.OriginPolicy = option(
        "origin_policy",
        "EKBO_ORIGIN_POLICY",
        values.origin_policy,
        values.OriginPolicy("none"),
        "none, same_origin, same_hostname, or a list of origins",
    )
    idle_timeout: float = option(
        "idle_timeout", "EKBO_IDLE_TIMEOUT", values.duration, 0.0, "close a session without frames; 0: off"
    )
    suppress_access_log: bool = option(
        "suppress_access_log", "EKBO_SUPPRESS_ACCESS_LOG", values.boolean, False, "no log line per request and session"
    )
    trusted_proxies: tuple[Network, ...] = option(
        "trusted_proxies", "EKBO_TRUSTED_PROXIES", values.networks, (), "networks whose X-Forwarded-* are believed"
    )
    api_keys: tuple[str, ...] = option(
        "api_keys", "EKBO_API_KEYS", values.secrets, (), "Authorization: Bearer for the API; several for rotation"
    )
    api_allow: tuple[Network, ...] = option(
        "api_allow", "EKBO_API_ALLOW", values.networks, (), "networks that may use the API without a key"
    )

    @property
    def session_header_name(self) -> bytes:
        """The session header as ASGI names it."""
        return self.session_header.lower().encode()


def options() -> Options:
    """The options in force."""
    return settings.KUIPERBELT


def load(environ: Mapping[str, str]) -> tuple[Options, list[Problem]]:
    """Read the YAML file that EKBO_CONFIG names, then the EKBO_* variables over it, then defaults.

    An empty variable counts as not set. Options with an error keep their default, so that a report can go on.
    """
    problems: list[Problem] = []
    document = _flatten(_read_file(environ, problems))
    chosen: dict[str, Any] = {}
    for spec in fields(Options):
        key, variable, parse = (spec.metadata[name] for name in ("key", "variable", "parse"))
        where, value = key, document.pop(key, _MISSING)
        if environ.get(variable):
            where, value = variable, environ[variable]
        if value is _MISSING or value in ("", "~", "null"):
            continue
        try:
            chosen[spec.name] = parse(value)
        except ValueError as error:
            problems.append(Problem(where, str(error), _quote(value, where)))
    problems += [Problem(key, "a known option", "this key") for key in document]
    problems += _conflicts(chosen, {problem.where for problem in problems})
    return Options(**chosen), problems


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """EKBO_* variables that no option reads: likely typing errors, unless the YAML file uses them itself."""
    known = {spec.metadata["variable"] for spec in fields(Options)} | {"EKBO_CONFIG"}
    return sorted(name for name in environ if name.startswith("EKBO_") and name not in known)


def report(problems: list[Problem]) -> str:
    """The whole report, for a terminal."""
    lines = [f"  - {problem}" for problem in problems]
    return "\n".join([f"kuiperbelt can't start: {len(problems)} problem(s) in the configuration", *lines])


def _conflicts(chosen: Mapping[str, Any], already: set[str]) -> list[Problem]:
    found: list[Problem] = []
    if "connect_callback" not in chosen and not already & {"callback.connect", "EKBO_CONNECT_CALLBACK_URL"}:
        found.append(Problem("callback.connect (EKBO_CONNECT_CALLBACK_URL)", "the backend's auth URL", "nothing"))
    if "port" in chosen and "sock" in chosen:
        found.append(Problem("port, sock", "one of them", f"port {chosen['port']} and sock {chosen['sock']!r}"))
    paths = {
        spec.metadata["key"]: getattr(Options(**chosen), spec.name) for spec in fields(Options) if "_path" in spec.name
    }
    if len(set(paths.values())) < len(paths):
        found.append(Problem(", ".join(paths), "five different paths", ", ".join(paths.values())))
    return found


def _read_file(environ: Mapping[str, str], problems: list[Problem]) -> dict[str, Any]:
    name = environ.get("EKBO_CONFIG")
    if not name:
        return {}
    try:
        with open(name, encoding="utf-8") as file:
            source = file.read()
        # Scalars stay the text they are, as in Go: a header's value 1.10 isn't the number 1.1.
        document = yaml.load(_expanded(source, environ, problems), Loader=yaml.BaseLoader)  # noqa: S506  makes text only
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        problems.append(Problem(f"EKBO_CONFIG {name}", "a readable YAML file in UTF-8", str(error)))
    except yaml.YAMLError as error:
        problems.append(Problem(f"EKBO_CONFIG {name}", "YAML", " ".join(str(error).split())))
    else:
        if isinstance(document, dict) or not document:
            return document or {}
        problems.append(Problem(f"EKBO_CONFIG {name}", "a mapping of options", type(document).__name__))
    return {}


def _expanded(source: str, environ: Mapping[str, str], problems: list[Problem]) -> str:
    text, mistakes = config_template.expand(source, environ)
    problems += [Problem("EKBO_CONFIG", expected, found) for expected, found in mistakes]
    return text


def _flatten(document: dict[str, Any]) -> dict[str, Any]:
    """{"callback": {"connect": …}} as {"callback.connect": …}, but for the options that are mappings themselves."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if key in ("path", "callback") and isinstance(value, dict):
            flat.update({f"{key}.{inner}": item for inner, item in value.items()})
        elif value or key not in ("path", "callback"):
            flat[key] = value
    return flat


def _quote(value: object, where: str) -> str:
    # A report ends up in logs: never a key.
    return "a value that isn't shown" if "api_keys" in where.lower() else repr(value)
