"""A file of API keys, as the option api_keys_file names it: one key a line, read anew at SIGHUP."""

import re
from pathlib import Path
from typing import Any

from proxy import values


def keys_in(value: Any) -> tuple[str, ...]:
    """The keys in the file of this name; empty lines and lines that begin with # don't count. Raises ValueError."""
    expected = "a readable file with a key of at least 16 visible ASCII characters on each line"
    try:
        lines = Path(values.text(value)).read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        raise ValueError(expected) from None
    keys = tuple(key for line in lines if (key := line.strip()) and not key.startswith("#"))
    if keys and all(re.fullmatch(r"[!-~]{16,}", key) for key in keys):
        return keys
    raise ValueError(expected)
