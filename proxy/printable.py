"""Text of others, for terminals and logs: what isn't printable is escaped, so that it can't pass for anything else."""

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
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


class JsonFormatter(logging.Formatter):
    """A JSON object on one line, in ASCII: whatever a text holds, it can't look like another line."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": at.replace("+00:00", "Z"), "level": record.levelname.lower()}
        line["logger"] = record.name
        if isinstance(record.args, Mapping):
            line |= record.args
        line["message"] = record.getMessage()
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
