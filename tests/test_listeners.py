"""What the uvicorn runner listens on."""

import errno
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from proxy.conf import Options
from proxy.listeners import Place, places


def tcp(host: str = "", port: int = 0) -> Place:
    return Place("", host, port)


def test_all_addresses_by_default() -> None:
    with tcp().listen()[0] as listener:
        port = listener.getsockname()[1]
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            if family == socket.AF_INET6 and not socket.has_dualstack_ipv6():
                continue
            with socket.socket(family) as client:
                client.connect((host, port))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_one_address(host: str) -> None:
    with tcp(host).listen()[0] as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("host", ["", "127.0.0.1"])
def test_workers_share_a_port_and_nobody_else_does(host: str) -> None:
    """Nor with SO_REUSEPORT, which another proxy with workers has."""
    with ExitStack() as stack:
        listeners = [stack.enter_context(each) for each in tcp(host).listen(3)]
        (port,) = {each.getsockname()[1] for each in listeners}
        for workers in (1, 2):
            with pytest.raises(OSError, match="in use") as caught:
                tcp(host, port).listen(workers)
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
    with tcp("127.0.0.1").listen()[0] as listener:
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0


def test_workers_share_one_unix_socket(tmp_path: Path) -> None:
    place = Place(str(tmp_path / "proxy.sock"), "", 0)
    first, second = place.listen(2)
    assert first is second
    first.close()


def test_a_unix_socket_that_a_dead_process_left_is_replaced(tmp_path: Path) -> None:
    place = Place(str(tmp_path / "proxy.sock"), "", 0)
    place.listen()[0].close()
    with place.listen()[0], pytest.raises(OSError, match="in use"):
        place.listen()


def test_a_place_in_words() -> None:
    assert Place("s", "", 9180).in_words("s") == "s"
    assert tcp("::1").in_words(("::1", 5, 0, 0)) == "::1 port 5"


def test_a_file_that_is_no_socket_stays(tmp_path: Path) -> None:
    file = tmp_path / "proxy.sock"
    file.write_text("precious")
    with pytest.raises(OSError, match="a file that isn't a socket is there"):
        Place(str(file), "", 0).listen()
    assert file.read_text() == "precious"


def test_the_socket_file_goes_at_the_end_unless_it_is_another_s(tmp_path: Path) -> None:
    place = Place(str(tmp_path / "proxy.sock"), "", 0)
    for others in (False, True):
        with place.listen()[0], place.socket_file():
            if others:
                (tmp_path / "proxy.sock").unlink()
                place.listen()[0].close()
        assert (tmp_path / "proxy.sock").exists() is others
    with tcp().socket_file():
        pass


def test_the_api_has_a_place_of_its_own_if_that_is_configured() -> None:
    public = Place("", "", 9180)
    assert places(Options()) == (public,)
    assert places(Options(api_port=0)) == (public, Place("", "127.0.0.1", 0))
    assert places(Options(api_port=9181, api_host="::1")) == (public, Place("", "::1", 9181))
    assert places(Options(api_sock="api.sock"))[1].in_words() == "api.sock"


def test_accepted_sockets_do_not_wait_for_a_peer_that_has_vanished() -> None:
    """Half-open TCP: the kernel gives up what stays without acknowledgement, whatever the proxy waits for."""
    option = socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT
    with ExitStack() as stack:
        listeners = [stack.enter_context(each) for each in tcp("127.0.0.1").listen(2)]
        assert [each.getsockopt(*option) for each in listeners] == [30_000, 30_000]
    with ExitStack() as stack:
        listener = stack.enter_context(tcp("127.0.0.1").listen()[0])
        stack.enter_context(socket.create_connection(listener.getsockname()))
        accepted = stack.enter_context(listener.accept()[0])
        assert accepted.getsockopt(*option) == 30_000
