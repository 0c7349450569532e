"""WebSocket handshakes at paths that aren't ours. The connect path: the contract tests."""

import pytest
from channels.testing import WebsocketCommunicator

from proxy.routing import websocket_application
from proxy.stats import stats


@pytest.mark.parametrize("path", ["/", "/nowhere", "/connect/", "/connect/more", "/connection"])
async def test_other_paths_are_refused(path: str) -> None:
    errors = stats.connect_errors
    assert (await WebsocketCommunicator(websocket_application, path).connect())[0] is False
    assert stats.connect_errors == errors + 1
