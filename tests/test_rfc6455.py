"""The handshake's rules and the heads of frames (RFC 6455 sections 1.3, 4.2, 5.2)."""

import base64
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from proxy import rfc6455
from proxy.exceptions import ConnectRefused

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # the example of section 1.3


def headers(**values: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"a"), *((f"sec-websocket-{name}".encode(), value) for name, value in values.items())]


def test_the_example_of_the_rfc() -> None:
    assert rfc6455.accept_token("GET", "1.1", headers(version=b"13", key=KEY)) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    ("method", "http_version", "sent", "status"),
    [
        ("POST", "1.1", headers(version=b"13", key=KEY), 400),
        ("GET", "1.0", headers(version=b"13", key=KEY), 400),
        ("GET", "1.1", headers(key=KEY), 426),
        ("GET", "1.1", headers(version=b"12", key=KEY), 426),
        ("GET", "1.1", [*headers(version=b"13", key=KEY), (b"sec-websocket-version", b"13")], 426),
        ("GET", "1.1", headers(version=b"13"), 400),
        ("GET", "1.1", [*headers(version=b"13", key=KEY), (b"host", b"b")], 400),
        ("GET", "1.1", headers(version=b"13", key=KEY)[1:], 400),
        ("GET", "1.1", headers(version=b"13", key=b"c2hvcnQ="), 400),
        ("GET", "1.1", headers(version=b"13", key=b"not base64!"), 400),
        ("GET", "1.1", headers(version=b"13", key=b"\xff"), 400),
        ("GET", "1.1", [*headers(version=b"13", key=KEY), (b"sec-websocket-key", KEY)], 400),
    ],
)
def test_bad_handshakes(method: str, http_version: str, sent: list[tuple[bytes, bytes]], status: int) -> None:
    with pytest.raises(ConnectRefused) as refusal:
        rfc6455.accept_token(method, http_version, sent)
    assert refusal.value.status == status
    if status == 426:
        assert (b"sec-websocket-version", b"13") in refusal.value.headers


@given(st.binary(min_size=16, max_size=16))
def test_any_key_of_16_bytes(key: bytes) -> None:
    token = rfc6455.accept_token("GET", "1.1", headers(version=b"13", key=base64.b64encode(key)))
    assert len(base64.b64decode(token)) == 20


def test_subprotocols() -> None:
    sent = [*headers(protocol=b"a, b"), *headers(protocol=b"c,")]
    assert rfc6455.subprotocols(sent) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65535, b"\x81\x7e\xff\xff"),
        (65536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_frame_heads(size: int, head: bytes) -> None:
    assert rfc6455.frame_head(rfc6455.TEXT, size) == head


def test_http_head() -> None:
    assert rfc6455.http_head(404, [(b"a", b"b")]) == b"HTTP/1.1 404 Not Found\r\na: b\r\n\r\n"
    assert rfc6455.http_head(599, []) == b"HTTP/1.1 599 \r\n\r\n"


def test_a_message_is_encoded_once_for_many_sessions() -> None:
    text = {"type": "websocket.send", "text": "h\u00e9"}
    frame = rfc6455.frame(text)
    assert frame == b"\x81\x03h\xc3\xa9"
    assert rfc6455.frame(text) is frame
    assert rfc6455.frame({"type": "websocket.send", "text": None, "bytes": b"\xff"}) == b"\x82\x01\xff"
    assert rfc6455.frame(dict(text)) == frame


@given(st.text(), st.booleans(), st.lists(st.integers(0, 50), max_size=5))
def test_fragments_become_the_message(text: str, binary: bool, cuts: list[int]) -> None:
    data = text.encode()
    parts = [data[start:end] for start, end in pairwise([0, *sorted(cuts), len(data)])]
    fragments = rfc6455.Fragments()
    for _ in range(2):  # the first leaves nothing behind for the second
        for number, part in enumerate(parts, 1):
            opcode = Opcode.CONT if number > 1 else Opcode.BINARY if binary else Opcode.TEXT
            done = fragments.add(Frame(opcode, part, fin=number == len(parts)))
            assert (done is None) == (number < len(parts))
        assert done == ({"bytes": data} if binary else {"text": text})


def test_text_of_fragments_that_is_not_utf_8() -> None:
    fragments = rfc6455.Fragments()
    assert fragments.add(Frame(Opcode.TEXT, b"\xc3", fin=False)) is None
    with pytest.raises(UnicodeDecodeError):
        fragments.add(Frame(Opcode.CONT, b"\xc3"))
