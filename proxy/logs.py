"""What the log leaves out. Named in kbproject/settings.py, LOGGING."""

import logging


class DenialFilter(logging.Filter):
    """Drops uvicorn's error for a denial response, which it takes for a handshake that was forgotten."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("ASGI callable returned without completing handshake")
