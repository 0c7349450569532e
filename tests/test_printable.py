"""Text of others in logs and at terminals."""

from __future__ import annotations

import io
import json
import logging
import re

import pytest

from proxy.printable import JsonFormatter, LineFormatter, shown
from tests.clients import request
from tests.servers import ALONE, Servers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("snow ☃ and \\", "snow ☃ and \\"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\r\nb\tc\x7f\x9b", r"a\r\nb\tc\x7f\x9b"),
        ("\u202eabc\u2066", r"\u202eabc\u2066"),
        ("\ud800\U000e0001", r"\ud800\U000e0001"),
    ],
)
def test_text_of_others(text: str, expected: str) -> None:
    assert shown(text) == expected


def test_a_traceback_is_told_from_messages() -> None:
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    handler.setFormatter(LineFormatter("%(levelname)s %(message)s"))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    try:
        raise ValueError("x\nERROR all is lost\x1b[2J")
    except ValueError:
        logger.exception("first\nERROR second")
    lines = output.getvalue().splitlines()
    assert lines[:2] == [r"ERROR first\nERROR second", "    Traceback (most recent call last):"]
    assert lines[-2:] == ["    ValueError: x", r"    ERROR all is lost\x1b[2J"]
    assert all(line.startswith("    ") for line in lines[1:])


@pytest.mark.parametrize("kind", ALONE)
async def test_nobody_writes_lines_into_the_log(servers: Servers, kind: str) -> None:
    """Nor session keys; and what is no path of ours isn't there at all."""
    server = await servers.start(kind)
    before = len(server.output())
    for path in ("/sessions/a%0AINJECTED%1B%5B2J", "/sessions/secret-bob", "/connect%0AINJECTED", "/admin/%0AINJECTED"):
        await request(server, "GET", path)
    await request(server, "GET", "/ping")
    await server.stop()
    log = server.output()[before:]
    assert log.count("GET /sessions/KEY ") == 2
    assert "GET /ping 200" in log
    assert not re.search("INJECTED|secret-bob|\x1b", log)


def test_json_is_one_line_whatever_it_holds() -> None:
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    handler.setFormatter(JsonFormatter())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.warning("%(what)s happened", {"event": "thing", "what": 'a"\nERROR \u2028\x1b[2J', "count": 3})
    logger.warning("plain %s", b"\xff")
    try:
        raise ValueError("x\ny")
    except ValueError:
        logger.exception("it broke")
    first, second, third = map(json.loads, output.getvalue().splitlines())
    assert output.getvalue().isascii()
    assert list(first) == ["time", "level", "logger", "event", "what", "count", "message"]
    assert (first["event"], first["count"], first["level"]) == ("thing", 3, "warning")
    assert first["message"] == 'a"\nERROR \u2028\x1b[2J happened'
    assert second["message"] == "plain b'\\xff'"
    assert third["traceback"].endswith("ValueError: x\ny")
