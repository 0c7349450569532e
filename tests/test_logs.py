"""What the log leaves out."""

import logging

import pytest

from proxy.logs import UvicornFilter


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("ASGI callable returned without completing handshake.", False),
        ("Invalid UTF-8 sequence received from client.", False),
        ("Exception in ASGI application\n", True),
    ],
)
def test_ordinary_ends_are_no_errors(message: str, kept: bool) -> None:
    record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, message, None, None)
    assert UvicornFilter().filter(record) is kept
