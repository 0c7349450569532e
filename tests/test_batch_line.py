"""One line of a batch: what it may say, and how it is answered."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import batch_line, delivery, protocol, pushes
from proxy.exceptions import ApiError, BadRequest, BodyTooLarge
from proxy.protocol import Frame

LIMIT = 100  # bytes of a body
BOB = b'"session":"bob"'


@pytest.mark.parametrize(
    ("line", "frame"),
    [
        (b'"body":"hello"', Frame("hello", 5)),
        (b'"body":""', Frame("", 0)),
        (b'"body":"h\\u00e9"', Frame("hé", 3)),
        (b'"body":"\xf0\x9f\x98\x80 \\ud83d\\ude00"', Frame("😀 😀", 9)),
        (b'"body":"hello","content_type":"text/plain"', Frame("hello", 5)),
        (b'"body":"h\\u00e9","content_type":"APPLICATION/OCTET-STREAM; x=y"', Frame("hé".encode(), 3)),
        (b'"base64":"/wA="', Frame(b"\xff\x00", 2)),
        (b'"base64":""', Frame(b"", 0)),
        (b'"base64":"aGk=","content_type":"application/octet-stream"', Frame(b"hi", 2)),
        (b'"base64":"aMOp","content_type":"text/plain"', Frame("hé", 3)),
        (b'"base64":"aGk=","content_type":""', Frame("hi", 2)),
        (b'"close":true', None),
        (b'"close":true,"body":null', None),
    ],
)
def test_frames(line: bytes, frame: Frame | None) -> None:
    read = batch_line.read(b"{" + BOB + b"," + line + b"}")
    assert read.keys() == ["bob"]
    assert read.frame(LIMIT) == frame


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"", "line: expected JSON"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{", "line: expected JSON"),
        (b"{} {}", "line: expected JSON"),
        (b"[" * 100_000, "line: expected JSON"),
        (b'{"id":' + b"[" * 100_000, "line: expected JSON"),
        (b'{"session":"\xff"}', "expected UTF-8"),
        (b'{"session":"bob","body":"\\ud800"}', "line: expected JSON"),
        (b'{"session":"bob","body":"\\ud800\\u0041"}', "line: expected JSON"),
        (b'{"session":"bob","body":"a\x01"}', "line: expected JSON"),
        (b'{"session":"bob","body":NaN}', "line: expected JSON"),
        (b'{"session":"bob","boddy":"x"}', "unknown field `boddy`"),
        (b'{"session":1,"body":"x"}', r"got `int` - at `\$.session`"),
        (b'{"sessions":["bob",null],"body":"x"}', r"at `\$.sessions\[1\]`"),
        (b'{"session":"bob","base64":"%%%"}', "base64"),
        (b'{"session":"bob","base64":"abc"}', "base64"),
        (b'{"session":"bob","id":[1]}', r"at `\$.id`"),
        (b'{"session":"bob","id":9223372036854775808}', r"at `\$.id`"),
        (b'{"session":"bob","id":"' + b"x" * 257 + b'"}', "length <= 256"),
        (b'{"session":"bob","close":1}', r"at `\$.close`"),
    ],
)
def test_malformed(line: bytes, text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        batch_line.read(line)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'"body":"x"', 'expected "session"'),
        (b'"session":"bob","sessions":["eve"],"body":"x"', 'expected "session"'),
        (b'"sessions":[],"body":"x"', 'expected "session"'),
        (b'"session":"bob,eve","body":"x"', "session key 1 is malformed"),
        (b'"sessions":["bob",""],"body":"x"', "session key 2 is malformed"),
        (b'"sessions":[' + b'"bob",' * 1000 + b'"bob"],"body":"x"', "too many session keys: expected at most 1000"),
        (BOB, 'expected "body" or "base64"'),
        (BOB + b',"body":"x","base64":"aGk="', "found both"),
        (BOB + b',"base64":"/w==","content_type":"text/plain"', "text body: expected UTF-8, found other bytes at 0"),
        (BOB + b',"body":"x","code":1000', 'expected with "close"'),
        (BOB + b',"body":"x","reason":"r"', 'expected with "close"'),
        (BOB + b',"body":"x","callback":true', 'expected with "close"'),
        (BOB + b',"close":true,"code":1001', '"code": expected 1000 or 3000-4999, found 1001'),
        (BOB + b',"close":true,"reason":"' + b"x" * 124 + b'"', "at most 123 bytes, found 124"),
        (BOB + b',"close":true,"reason":"' + "é".encode() * 62 + b'"', "at most 123 bytes, found 124"),
    ],
)
def test_refused(line: bytes, text: str) -> None:
    read = batch_line.read(b"{" + line + b"}")
    with pytest.raises(BadRequest, match=text):
        _ = read.begin(read.keys(), LIMIT)


@pytest.mark.parametrize(
    "body", [b'"body":"' + b"x" * 101 + b'"', b'"body":"' + "é".encode() * 51 + b'"', b'"base64":"' + b"A" * 136 + b'"']
)
def test_a_body_over_the_limit(body: bytes) -> None:
    read = batch_line.read(b"{" + BOB + b"," + body + b"}")
    with pytest.raises(BodyTooLarge, match="at most 100 bytes are taken"):
        read.frame(LIMIT)


async def begun(line: bytes, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a line does."""
    done: list[Any] = []

    async def note(*arguments: Any) -> None:
        done.extend(arguments)

    for name in ("begin_send", "begin_close"):
        monkeypatch.setattr(delivery, name, lambda *arguments, name=name: note(name, *arguments))
    read = batch_line.read(line)
    await read.begin(read.keys(), LIMIT)
    return done


async def test_what_a_line_does(monkeypatch: pytest.MonkeyPatch) -> None:
    hello, bob = Frame("hello", 5), ["bob"]
    for line, done in [
        (b'{"session":"bob","body":"hello"}', ["begin_send", bob, hello]),
        (b'{"session":"bob","body":"hello","close":false}', ["begin_send", bob, hello]),
        (b' {"sessions":["bob","eve","bob"],"body":"hello"}\r', ["begin_send", ["bob", "eve", "bob"], hello]),
        (b'{"session":"bob","close":true}', ["begin_close", bob, None, 1000, "", False]),
        (b'{"session":"bob","close":true,"body":""}', ["begin_close", bob, None, 1000, "", False]),
        (b'{"session":"bob","close":true,"callback":true}', ["begin_close", bob, None, 1000, "", True]),
        (
            b'{"session":"bob","close":true,"body":"hello","code":4000,"reason":"r"}',
            ["begin_close", bob, hello, 4000, "r", False],
        ),
    ]:
        assert await begun(line, monkeypatch) == done


def answered(line: bytes) -> dict[str, Any]:
    """The answer to line 1, to nobody or in vain."""
    identity, status = None, 200
    try:
        read = batch_line.read(line)
        identity = read.id
        done = asyncio.run(_finished(read))
    except ApiError as error:
        status, body = error.status, protocol.refusal_body(str(error))
    else:
        assert isinstance(done, delivery.Delivery)
        status, body = pushes.answer(done)
    answer = batch_line.answer(1, identity, status, body)
    assert answer.index(b"\n") == len(answer) - 1
    found: dict[str, Any] = json.loads(answer)
    return found


async def _finished(read: batch_line.Line) -> object:
    return await read.begin(read.keys(), LIMIT)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_whatever_comes_is_refused(line: bytes) -> None:
    assert answered(line)["status"] == 400


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=130) | st.just("bob")
_FIELDS = st.sampled_from(sorted(batch_line.Line.__struct_fields__))


@given(st.dictionaries(_FIELDS | st.text(max_size=3), _SCALARS | st.lists(_SCALARS, max_size=3), max_size=6))
def test_whatever_an_object_says_is_done_or_refused(fields: dict[str, Any]) -> None:
    answer = answered(json.dumps(fields).encode())
    assert answer["errors"]
    assert answer.get("id", fields.get("id")) == fields.get("id")


def test_answers() -> None:
    failed = b'{"errors":[{"error":"gone","session":"eve"}],"result":"OK"}\n'
    assert batch_line.answer(1, None, 200, protocol.OK_BODY) == b'{"line":1,"result":"OK"}\n'
    assert batch_line.answer(2, 7, 200, protocol.OK_BODY) == b'{"line":2,"id":7,"result":"OK"}\n'
    assert batch_line.answer(3, 'a"\n', 200, failed) == b'{"line":3,"id":"a\\"\\n","status":200,' + failed[1:]
    refused = protocol.refusal_body("why")
    assert batch_line.answer(4, None, 400, refused) == b'{"line":4,"status":400,' + refused[1:] + b"\n"
