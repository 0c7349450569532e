"""Keys that options name: files of them, one key a line, read anew at SIGHUP; and how those look that sign."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy import values
from proxy.signatures import secret_bytes


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A file and what was in it."""

    path: str
    keys: tuple[str, ...] = field(compare=False, repr=False)


def key_file(value: Any) -> KeyFile:
    """The file of this name, with API keys; empty lines and lines that begin with # don't count. Raises ValueError."""
    return _read(value, values.secrets, "a key of at least 16 visible ASCII characters on each line")


def signing_key_file(value: Any) -> KeyFile:
    """The file of this name, with keys that sign callbacks, likewise."""
    return _read(value, signing_keys, "a key like whsec_… on each line, with base64 of 24 to 64 random bytes")


def signing_keys(value: Any) -> tuple[str, ...]:
    """Keys that sign callbacks, from YAML or a variable. Raises ValueError."""
    try:
        keys = values.secrets(value)
        for key in keys:
            secret_bytes(key)
    except ValueError:
        raise ValueError("keys like whsec_… with base64 of 24 to 64 random bytes, separated by commas") from None
    return keys


def _read(value: Any, parse: Callable[[Any], tuple[str, ...]], content: str) -> KeyFile:
    try:
        path = values.text(value)
        lines = Path(path).read_text(encoding="ascii").splitlines()
        keys = parse([key for line in lines if (key := line.strip()) and not key.startswith("#")])
    except (OSError, ValueError):
        keys = ()
    if not keys:
        raise ValueError(f"a readable file with {content}")
    return KeyFile(path, keys)
