"""The uvicorn runner: what it listens on."""

import errno
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from proxy import server
from proxy.conf import Options


def test_all_addresses_by_default() -> None:
    with server.listen(Options(port=0))[0] as listener:
        port = listener.getsockname()[1]
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            if family == socket.AF_INET6 and not socket.has_dualstack_ipv6():
                continue
            with socket.socket(family) as client:
                client.connect((host, port))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_one_address(host: str) -> None:
    with server.listen(Options(host=host, port=0))[0] as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("host", ["", "127.0.0.1"])
def test_workers_share_a_port_and_nobody_else_does(host: str) -> None:
    """Nor with SO_REUSEPORT, which another proxy with workers has."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(each) for each in server.listen(Options(host=host, port=0), 3)]
        (port,) = {each.getsockname()[1] for each in listeners}
        for workers in (1, 2):
            with pytest.raises(OSError, match="in use") as caught:
                server.listen(Options(host=host, port=port), workers)
            assert caught.value.errno == errno.EADDRINUSE
        for _ in range(300):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert min(accepted(each) for each in listeners) >= 50


def accepted(listener: socket.socket) -> int:
    """How many connections wait for it."""
    listener.setblocking(False)
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_a_single_process_takes_no_port_that_workers_could_join() -> None:
    with server.listen(Options(host="127.0.0.1", port=0))[0] as listener:
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0


def test_workers_share_one_unix_socket(tmp_path: Path) -> None:
    options = Options(sock=str(tmp_path / "proxy.sock"))
    first, second = server.listen(options, 2)
    assert first is second
    first.close()


def test_a_unix_socket_that_a_dead_process_left_is_replaced(tmp_path: Path) -> None:
    options = Options(sock=str(tmp_path / "proxy.sock"))
    server.listen(options)[0].close()
    with server.listen(options)[0], pytest.raises(OSError, match="in use"):
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


def test_the_socket_file_goes_at_the_end_unless_it_is_another_s(tmp_path: Path) -> None:
    options = Options(sock=str(tmp_path / "proxy.sock"))
    for others in (False, True):
        with server.listen(options)[0], server.socket_file(options):
            if others:
                (tmp_path / "proxy.sock").unlink()
                server.listen(options)[0].close()
        assert (tmp_path / "proxy.sock").exists() is others
    with server.socket_file(Options(port=0)):
        pass
