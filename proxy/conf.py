"""Reads the options from YAML and environment.

`load` collects all errors instead of stopping at the first, so that one report can name them all. Only
kbproject/settings.py calls it with the real environment; everyone else reads `options()`.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

import yaml
from django.conf import settings
from django.core.signals import setting_changed
from django.dispatch import receiver

from proxy import config_template
from proxy.options import Options as Options
from proxy.printable import shown

NO_CALLBACK = "callback.connect (EKBO_CONNECT_CALLBACK_URL)"
"""Where the problem is that only who serves or calls the backend has."""

RELOADED = ("api_keys", "api_keys_file", "signing_keys", "signing_keys_file", "log_level")
"""Options that SIGHUP changes; all others stay as they were at the start."""

_MISSING = object()
_ALIKE = 0.85  # of 1: a name that is spelt so nearly as an option's is taken for a typing error
_SECTIONS = ("path", "callback", "redis", "log")  # of the YAML file
_overrides: dict[str, Any] = {}
_options: Options | None = None
_SECRETS = ("api_keys", "signing_keys", "redis.url", "redis_url", "database_url", "secret_key", "proxy_set_header")

logger = logging.getLogger("proxy.conf")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the configuration."""

    where: str
    expected: str
    found: str

    def __str__(self) -> str:
        return shown(f"{self.where}: expected {self.expected}, found {self.found}")


def options() -> Options:
    """The options in force."""
    global _options
    if _options is None:  # what Django's settings cost counts in a push
        _options = settings.KUIPERBELT
    return _options


@receiver(setting_changed)
def _forget(**_: Any) -> None:
    """A test overrides settings."""
    global _options
    _options = None


def _put_in_force(changed: Options) -> None:
    settings.KUIPERBELT = changed
    _forget()


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
    problems += [_unknown(key) for key in document]
    problems += _conflicts(chosen, {problem.where for problem in problems})
    # Whoever asks for the keys needn't know where they come from.
    for name in ("api_keys", "signing_keys"):
        if file := chosen.get(f"{name}_file"):
            chosen[name] = (*chosen.get(name, ()), *file.keys)
    return Options(**chosen), problems


def override(**chosen: Any) -> None:
    """Options from the command line, over all others and for good."""
    _overrides.update(chosen)
    _put_in_force(replace(options(), **chosen))


def read_anew() -> None:
    """Take the options of RELOADED as the files have them now. Raises ValueError; then nothing is taken."""
    fresh, problems = settings.KUIPERBELT_LOAD()
    if problems:
        raise ValueError("; ".join(map(str, problems)))
    fresh, now = replace(fresh, **_overrides), options()
    changed = [spec for spec in fields(Options) if getattr(fresh, spec.name) != getattr(now, spec.name)]
    if fixed := [spec.metadata["key"] for spec in changed if spec.name not in RELOADED]:
        logger.warning("%s: changed, but only a restart takes that", ", ".join(fixed))
    _put_in_force(replace(now, **{name: getattr(fresh, name) for name in RELOADED}))


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """EKBO_* variables that no option reads: likely typing errors, unless the YAML file uses them itself."""
    known = {*_names("variable"), "EKBO_CONFIG"}
    return sorted(name for name in environ if name.startswith("EKBO_") and name not in known)


def unread(name: str) -> str:
    """What to say of such a variable: with an option's that is spelt nearly so, if there is one."""
    meant = "".join(f"; {known} is one" for known in get_close_matches(name, _names("variable"), 1, _ALIKE))
    return f"{name}: no option reads this variable{meant}"


def _names(kind: str) -> list[str]:
    """Of all options, as the YAML file (`key`) or the environment (`variable`) has them."""
    return [spec.metadata[kind] for spec in fields(Options)]


def _unknown(key: Any) -> Problem:
    """Of a key that the YAML file has and no option."""
    if key in _SECTIONS:
        return Problem(key, "its own options below it, indented", "something else")
    meant = "".join(f", like {known}" for known in get_close_matches(str(key), _names("key"), 1, _ALIKE))
    return Problem(key, f"a known option{meant}", "this key")


def report(problems: list[Problem]) -> str:
    """The whole report, for a terminal."""
    lines = [f"  - {problem}" for problem in problems]
    return "\n".join([f"kuiperbelt can't start: {len(problems)} problem(s) in the configuration", *lines])


def _conflicts(chosen: Mapping[str, Any], already: set[str]) -> list[Problem]:
    found: list[Problem] = []
    if "connect_callback" not in chosen and not already & {"callback.connect", "EKBO_CONNECT_CALLBACK_URL"}:
        found.append(Problem(NO_CALLBACK, "the backend's auth URL", "nothing"))
    if "port" in chosen and "sock" in chosen:
        found.append(Problem("port, sock", "one of them", f"port {chosen['port']} and sock {chosen['sock']!r}"))
    if "api_port" in chosen and "api_sock" in chosen:
        both = f"api_port {chosen['api_port']} and api_sock {chosen['api_sock']!r}"
        found.append(Problem("api_port, api_sock", "one of them", both))
    if ("redis_sentinels" in chosen) != ("redis_master" in chosen):
        given = "redis.master" if "redis_master" in chosen else "redis.sentinels"
        found.append(Problem("redis.sentinels, redis.master", "both or none", f"only {given}"))
    if "redis_sentinels" in chosen and len(chosen.get("redis_url", ())) > 1:
        found.append(Problem("redis.url", "at most one URL beside redis.sentinels", f"{len(chosen['redis_url'])}"))
    paths = {
        spec.metadata["key"]: getattr(Options(**chosen), spec.name) for spec in fields(Options) if "_path" in spec.name
    }
    if twice := {key: path for key, path in paths.items() if list(paths.values()).count(path) > 1}:
        found.append(Problem(", ".join(twice), "different paths", ", ".join(twice.values())))
    return found


class _Loader(yaml.BaseLoader):
    """Makes text only, as Go does: a header's value 1.10 isn't the number 1.1."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Of two keys that are the same YAML keeps the last one, and nobody would hear of the first."""
        seen = set[str]()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem="the same key again", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read_file(environ: Mapping[str, str], problems: list[Problem]) -> dict[str, Any]:
    name = environ.get("EKBO_CONFIG")
    if not name:
        return {}
    try:
        with open(name, encoding="utf-8") as file:
            source = file.read()
        text = _expanded(source, environ, problems)
        document = yaml.load(text, Loader=_Loader)  # noqa: S506  # nosec B506
    except (OSError, ValueError, OverflowError, RecursionError) as error:  # also of characters that don't exist
        problems.append(Problem(f"EKBO_CONFIG {name}", "a readable YAML file in UTF-8", str(error)))
    except yaml.YAMLError as error:
        problems.append(Problem(f"EKBO_CONFIG {name}", "YAML", _what_is_wrong(error)))
    else:
        if isinstance(document, dict) or not document:
            return document or {}
        problems.append(Problem(f"EKBO_CONFIG {name}", "a mapping of options", type(document).__name__))
    return {}


def _what_is_wrong(error: yaml.YAMLError) -> str:
    """Without what stands in the file: that may be a key."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    said = f"{error.context or ''} {error.problem}".strip().replace(r"'\t'", "tab")
    what = re.sub("'.*'", "something", said)
    mark = error.problem_mark or error.context_mark
    return f"{what} in line {mark.line + 1}, column {mark.column + 1}" if mark else what


def _expanded(source: str, environ: Mapping[str, str], problems: list[Problem]) -> str:
    text, mistakes = config_template.expand(source, environ)
    problems += [Problem("EKBO_CONFIG", expected, found) for expected, found in mistakes]
    return text


def _flatten(document: dict[str, Any]) -> dict[str, Any]:
    """{"callback": {"connect": …}} as {"callback.connect": …}, but for the options that are mappings themselves."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if key in _SECTIONS and isinstance(value, dict):
            flat.update({f"{key}.{inner}": item for inner, item in value.items()})
        elif value or key not in _SECTIONS:
            flat[key] = value
    return flat


def _quote(value: object, where: str) -> str:
    # A report ends up in logs: never a key or a password.
    where = where.lower()
    secret = any(name in where for name in _SECRETS) and not where.endswith("_file")
    return "a value that isn't shown" if secret else re.sub("//.*@", "//…@", repr(value))  # user and password
