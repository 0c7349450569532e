"""What the log leaves out."""

import logging

import pytest

from proxy.logs import DenialFilter


@pytest.mark.parametrize(
    ("message", "kept"),
    [("ASGI callable returned without completing handshake.", False), ("Exception in ASGI application\n", True)],
)
def test_denials_are_no_errors(message: str, kept: bool) -> None:
    record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, message, None, None)
    assert DenialFilter().filter(record) is kept
