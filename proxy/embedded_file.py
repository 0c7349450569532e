"""The embedded database's file, which holds the admin's logins: for its owner only. Used by kbproject/settings.py."""

import contextlib
import os
import sqlite3
from typing import Any


class OwnersConnection(sqlite3.Connection):
    """Makes the file, if there is none, before SQLite would, for all to read. Its journals get the same mode."""

    def __init__(self, database: str, *args: Any, **kwargs: Any) -> None:
        with contextlib.suppress(OSError):  # SQLite will say what is wrong
            os.close(os.open(database, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        super().__init__(database, *args, **kwargs)
