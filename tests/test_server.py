"""The uvicorn runner: what it listens on."""

import socket
from pathlib import Path

import pytest

from proxy import server
from proxy.conf import Options


def test_all_addresses_by_default() -> None:
    with server.listen(Options(port=0)) as listener:
        port = listener.getsockname()[1]
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            if family == socket.AF_INET6 and not socket.has_dualstack_ipv6():
                continue
            with socket.socket(family) as client:
                client.connect((host, port))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_one_address(host: str) -> None:
    with server.listen(Options(host=host, port=0)) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_a_unix_socket_that_a_dead_process_left_is_replaced(tmp_path: Path) -> None:
    options = Options(sock=str(tmp_path / "proxy.sock"))
    server.listen(options).close()
    with server.listen(options), pytest.raises(OSError, match="in use"):
        server.listen(options)


def test_where_names_a_socket_of_any_length() -> None:
    assert server.where(Options(sock="s"), "s") == "s"
    assert server.where(Options(host="::1"), ("::1", 5, 0, 0)) == "::1 port 5"


def test_a_file_that_is_no_socket_stays(tmp_path: Path) -> None:
    file = tmp_path / "proxy.sock"
    file.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        server.listen(Options(sock=str(file)))
    assert file.read_text() == "precious"
