"""The key that signs the admin's logins, when none is configured. Called by kbproject/settings.py.

It is kept in a file, so that logins outlast a restart and all processes of this machine have the same.
"""

import os
import secrets
from pathlib import Path


def kept_key(path: Path) -> str:
    """The key in this file, which is made, for its owner's eyes only, if there is none.

    Where no file can be kept the key is new at each start, and logins end with the process.
    """
    try:
        if not path.exists():
            _make(path)
        return path.read_text(encoding="ascii").strip() or secrets.token_urlsafe(48)
    except (OSError, UnicodeDecodeError):
        return secrets.token_urlsafe(48)


def _make(path: Path) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(f"{secrets.token_urlsafe(48)}\n")
        # Whole or not at all, and of several processes that start together the first one's stays.
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink(missing_ok=True)
