"""Session keys, frames, close codes, answers: tables, and hypothesis where input is hostile."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import protocol
from proxy.exceptions import BadRequest, SessionHeaderMissing
from proxy.protocol import Failure, Frame


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        ([b"alice"], ["alice"]),
        ([b"alice", b"bob"], ["alice", "bob"]),
        ([b"alice,bob"], ["alice", "bob"]),
        ([b" alice ,\tbob ", b"carol"], ["alice", "bob", "carol"]),
        ([b"alice", b"alice"], ["alice", "alice"]),
        ([b"alice,,bob,"], ["alice", "bob"]),
        ([b"!#%&'*+-.^_`|~;=\"<>{}"], ["!#%&'*+-.^_`|~;=\"<>{}"]),
        ([b"k" * 256], ["k" * 256]),
    ],
)
def test_session_keys(values: list[bytes], keys: list[str]) -> None:
    assert protocol.session_keys(values) == keys


@pytest.mark.parametrize(
    ("values", "error", "text"),
    [
        ([], SessionHeaderMissing, "session header is missing"),
        ([b""], SessionHeaderMissing, "session header is missing"),
        ([b" , "], SessionHeaderMissing, "session header is missing"),
        ([b"k" * 257], BadRequest, "session key 1 is malformed"),
        ([b"ok", b"a b"], BadRequest, "session key 2 is malformed"),
        ([b"a\x01b"], BadRequest, "session key 1 is malformed"),
        ([b"\x1fa"], BadRequest, "session key 1 is malformed"),
        ([b"a\x7f"], BadRequest, "session key 1 is malformed"),
        ([b"caf\xc3\xa9"], BadRequest, "expected visible ASCII"),
        ([b"k"] * 1001, BadRequest, "too many session keys"),
    ],
)
def test_session_keys_refused(values: list[bytes], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        protocol.session_keys(values)


def test_a_thousand_keys_pass() -> None:
    assert len(protocol.session_keys([b",".join([b"k"] * 1000)])) == 1000


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_session_keys_are_keys_whatever_comes(values: list[bytes]) -> None:
    try:
        keys = protocol.session_keys(values)
    except (BadRequest, SessionHeaderMissing):
        return
    assert keys
    assert all(protocol.is_session_key(key) for key in keys)


@pytest.mark.parametrize(
    ("content_type", "binary"),
    [
        ("application/octet-stream", True),
        ("APPLICATION/OCTET-STREAM; x=y", True),
        (" application/octet-stream ;charset=utf-8", True),
        ("application/octet-stream2", False),
        ("application/json", False),
        ("text/plain", False),
        ("", False),
    ],
)
def test_content_type_decides_between_text_and_binary(content_type: str, binary: bool) -> None:
    frame = protocol.make_frame("é".encode(), content_type)
    assert frame == Frame("é".encode() if binary else "é", 2)
    assert frame.binary is binary
    assert frame.encode() == "é".encode()
    assert frame.content_type == ("application/octet-stream" if binary else "text/plain")


@given(st.binary())
def test_frame_carries_the_bytes_it_was_made_of(body: bytes) -> None:
    assert protocol.make_frame(body, "application/octet-stream").encode() == body
    try:
        frame = protocol.make_frame(body, "")
    except UnicodeDecodeError:
        return
    assert frame.encode() == body
    assert frame.size == len(body)


def close_headers(**values: str) -> list[tuple[bytes, bytes]]:
    return [(f"x-kuiperbelt-close-{name}".encode(), value.encode()) for name, value in values.items()]


@pytest.mark.parametrize("code", [1000, 3000, 4999])
def test_close_code(code: int) -> None:
    assert protocol.close_code(close_headers(code=str(code))) == code


def test_close_without_headers() -> None:
    assert protocol.close_code([]) == 1000
    assert protocol.close_reason([]) == ""


@pytest.mark.parametrize("code", ["", "999", "1001", "1006", "2999", "5000", "abc", "+4000", "40000", "٤٠٠٠"])
def test_close_code_refused(code: str) -> None:
    with pytest.raises(BadRequest, match="expected 1000 or 3000-4999"):
        protocol.close_code(close_headers(code=code))


def test_close_code_named_twice_is_refused() -> None:
    with pytest.raises(BadRequest):
        protocol.close_code([*close_headers(code="4000"), *close_headers(code="4001")])


def test_close_reason() -> None:
    assert protocol.close_reason(close_headers(reason="Größe")) == "Größe"
    with pytest.raises(BadRequest, match="at most 123 bytes"):
        protocol.close_reason(close_headers(reason="x" * 124))
    with pytest.raises(BadRequest, match="UTF-8"):
        protocol.close_reason([(b"x-kuiperbelt-close-reason", b"\xff")])


def test_close_callback() -> None:
    assert not protocol.close_callback([])
    assert protocol.close_callback(close_headers(callback="true"))
    assert not protocol.close_callback(close_headers(callback="false"))


@pytest.mark.parametrize("headers", [close_headers(callback="yes"), 2 * close_headers(callback="true")])
def test_close_callback_refused(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(BadRequest, match="X-Kuiperbelt-Close-Callback: expected true or false, found"):
        protocol.close_callback(headers)


def test_failures_are_written_as_go_writes_them() -> None:
    failure = Failure("bob", "kuiperbelt: session is not found")
    expected = b'{"errors":[{"error":"kuiperbelt: session is not found","session":"bob"}],"result":"OK"}\n'
    assert protocol.failures_body([failure], "OK") == expected


def test_json_is_harmless_inside_html_and_means_the_same() -> None:
    body = protocol.failures_body([Failure("</script>&", "x")], "NG")
    assert b"<" not in body
    assert json.loads(body)["errors"][0]["session"] == "</script>&"


def test_refusal() -> None:
    expected = b'{"errors":[{"error":"session header is missing"}],"result":"NG"}'
    assert protocol.refusal_body("session header is missing") == expected
