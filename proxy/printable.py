"""Text of others, for terminals and logs: what isn't printable is escaped, so that it can't pass for anything else."""

import logging
from typing import Any

INDENT = "    "


def shown(text: str) -> str:
    """The text on one line, without anything that moves a cursor."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


class LineFormatter(logging.Formatter):
    """A message is one line. Only a traceback has more, and these are indented, so that none looks like a message."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return shown(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "\n".join(INDENT + shown(line) for line in super().formatException(ei).splitlines())
