"""A file of API keys, as the option api_keys_file names it: one key a line, read anew at SIGHUP."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy import values


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A file and what was in it."""

    path: str
    keys: tuple[str, ...] = field(compare=False, repr=False)


def key_file(value: Any) -> KeyFile:
    """The file of this name; empty lines and lines that begin with # don't count. Raises ValueError."""
    expected = "a readable file with a key of at least 16 visible ASCII characters on each line"
    try:
        path = values.text(value)
        lines = Path(path).read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        raise ValueError(expected) from None
    keys = tuple(key for line in lines if (key := line.strip()) and not key.startswith("#"))
    if keys and all(re.fullmatch(r"[!-~]{16,}", key) for key in keys):
        return KeyFile(path, keys)
    raise ValueError(expected)
