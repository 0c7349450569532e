"""What the log leaves out. Named in kbproject/settings.py, LOGGING."""

import logging

# What uvicorn logs as its own error, one with a traceback, though it is a client's or our way to end a connection. The
# consumer logs each of these ends in a line of its own.
_NO_ERRORS = (
    "ASGI callable returned without completing handshake",  # a denial response
    "Invalid UTF-8 sequence received from client",  # closed with 1007
)


class UvicornFilter(logging.Filter):
    """Drops what isn't an error from uvicorn's log."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_NO_ERRORS)
