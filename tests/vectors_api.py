"""Rows of the contract's section POST {path.send}, {path.close}, and of who may call."""

from __future__ import annotations

import json

from tests.clients import Headers
from tests.vectors import SAME, Call, Case, Ended, Reply, Same

SESSION = "X-Kuiperbelt-Session"
OK = b'{"result":"OK"}'
NO_HEADER = b'{"errors":[{"error":"session header is missing"}],"result":"NG"}'
NOT_POST = b'{"errors":[{"error":"required POST method"}],"result":"NG"}'
STRICT = SMALL = {"EKBO_STRICT_BROADCAST_MODE_SWITCH": "true", "EKBO_MAX_BODY_SIZE": "100"}
MIB = 1024 * 1024
BY_SERVER = Reply(400, json=False)
"""The server's own parser refuses, before the proxy is asked."""


def not_found(*keys: str, result: str = "OK") -> bytes:
    """The body of an answer for sessions that are not there."""
    errors = [{"error": "kuiperbelt: session is not found", "session": key} for key in keys]
    return json.dumps({"errors": errors, "result": result}, separators=(",", ":")).encode() + b"\n"


def row(
    name: str,
    do: Call,
    expected: Reply,
    daphne: Reply | Same = SAME,
    env: dict[str, str] | None = None,
    section: str = "send, close",
) -> Case[Call, Reply]:
    """A row of the table."""
    return Case(name=name, section=section, env=env or {}, do=do, expected=expected, daphne=daphne)


def to(*keys: str) -> Headers:
    """A session header line per key."""
    return [(SESSION, key) for key in keys]


def typed(content_type: str, name: str = "Content-Type") -> Headers:
    """To `{a}`, with a content type."""
    return [*to("{a}"), (name, content_type)]


SEND: list[Case[Call, Reply]] = [
    # who gets it
    row("one session", Call(), Reply(200, OK, a=("hello",))),
    row("two sessions on two lines", Call(to("{a}", "{b}")), Reply(200, OK, a=("hello",), b=("hello",))),
    row("two sessions in a list", Call(to("{a},{b}")), Reply(200, OK, a=("hello",), b=("hello",))),
    row("two sessions in a list with spaces", Call(to("{a} ,\t{b}")), Reply(200, OK, a=("hello",), b=("hello",))),
    row("lines and lists", Call(to("{a},{b}", "{a}")), Reply(200, OK, a=("hello", "hello"), b=("hello",))),
    row("the same session twice", Call(to("{a}", "{a}")), Reply(200, OK, a=("hello", "hello"))),
    row("header in lower case", Call([("x-kuiperbelt-session", "{a}")]), Reply(200, OK, a=("hello",))),
    row("header in capitals", Call([("X-KUIPERBELT-SESSION", "{a}")]), Reply(200, OK, a=("hello",))),
    row("1,000 keys", Call(to(",".join(["{a}"] * 1000))), Reply(200, OK, a=("hello",) * 1000)),
    row(
        "1,000 keys on lines",
        Call(to(*["{a}"] * 1000)),
        Reply(200, OK, a=("hello",) * 1000),
        # Twisted takes 500 header lines at most.
        daphne=BY_SERVER,
    ),
    row("1,001 keys", Call(to(",".join(["{a}"] * 1001))), Reply(400)),
    # some or all not delivered
    row("unknown session", Call(to("{x}")), Reply(200, not_found("{x}"))),
    row("one of two is unknown", Call(to("{a}", "{x}")), Reply(200, not_found("{x}"), a=("hello",))),
    row("unknown before known", Call(to("{x},{b}")), Reply(200, not_found("{x}"), b=("hello",))),
    row(
        "unknown twice",
        Call(to("{x}", "{a}", "y{x}", "{x}")),
        Reply(200, not_found("{x}", "y{x}", "{x}"), a=("hello",)),
    ),
    row("key in another case", Call(to("A{a}")), Reply(200, not_found("A{a}"))),
    row("key of 256", Call(to("k" * 256)), Reply(200, not_found("k" * 256))),
    # Go's encoder, whose bytes these are, escapes the signs of HTML too.
    row(
        "key that needs escapes",
        Call(to('"\\<{x}&>')),
        Reply(
            200, not_found('"\\<{x}&>').replace(b"<", b"\\u003c").replace(b"&", b"\\u0026").replace(b">", b"\\u003e")
        ),
    ),
    # strict broadcast
    row("strict, all there", Call(to("{a}", "{b}")), Reply(200, OK, a=("hello",), b=("hello",)), env=STRICT),
    row("strict, one unknown", Call(to("{a}", "{x}", "{b}")), Reply(400, not_found("{x}", result="NG")), env=STRICT),
    row("strict, only unknown", Call(to("{x}")), Reply(400, not_found("{x}", result="NG")), env=STRICT),
    # text or binary
    row("octets", Call(typed("application/octet-stream"), b"\xff\x00\xfe"), Reply(200, OK, a=(b"\xff\x00\xfe",))),
    row("octets with parameter", Call(typed("APPLICATION/OCTET-STREAM; x=y"), b"\xff"), Reply(200, OK, a=(b"\xff",))),
    row(
        "octets, header in lower case",
        Call(typed("application/octet-stream", "content-type"), b"z"),
        Reply(200, OK, a=(b"z",)),
    ),
    row("text", Call(typed("text/plain; charset=utf-8"), "grüß".encode()), Reply(200, OK, a=("grüß",))),
    row("json", Call(typed("application/json"), b'{"a": 1}'), Reply(200, OK, a=('{"a": 1}',))),
    row("type that only looks like octets", Call(typed("application/octet-streams"), b"t"), Reply(200, OK, a=("t",))),
    row("four-byte characters", Call(body="\U0001f600".encode()), Reply(200, OK, a=("\U0001f600",))),
    row("NUL in text", Call(body=b"a\0b"), Reply(200, OK, a=("a\0b",))),
    row("chunked body", Call(body=b"in many chunks", chunk=3), Reply(200, OK, a=("in many chunks",))),
    row("empty text", Call(body=b""), Reply(200, OK, a=("",))),
    row("no body at all", Call(body=None), Reply(200, OK, a=("",))),
    row("empty octets", Call(typed("application/octet-stream"), b""), Reply(200, OK, a=(b"",))),
    row("frame of 126", Call(body=b"x" * 126), Reply(200, OK, a=("x" * 126,))),
    row("frame of 64 KiB", Call(body=b"x" * 65536), Reply(200, OK, a=("x" * 65536,))),
    row("body of 1 MiB", Call(body=b"x" * MIB), Reply(200, OK, a=("x" * MIB,))),
    row("text that is not UTF-8", Call(body=b"ab\xff"), Reply(400)),
    row("surrogate in text", Call(body=b"\xed\xa0\x80"), Reply(400)),
    row("text cut in a character", Call(body="é".encode()[:1]), Reply(400)),
    row("target with query", Call(path="/send?x=y"), Reply(200, OK, a=("hello",))),
]

BOTH_PATHS: list[Case[Call, Reply]] = [
    row(f"{path}, {name}", Call(headers, body, method, path, chunk), expected, daphne, env)
    for path in ("/send", "/close")
    for name, headers, body, method, chunk, expected, daphne, env in (
        ("no header", [], b"hello", "POST", 0, Reply(400, NO_HEADER), SAME, None),
        ("no header, no body", [], None, "POST", 0, Reply(400, NO_HEADER), SAME, None),
        ("empty header", to(""), b"hello", "POST", 0, Reply(400), SAME, None),
        ("key of 257", to("k" * 257), b"hello", "POST", 0, Reply(400), SAME, None),
        ("good and bad key", to("{a}", "b c"), b"hello", "POST", 0, Reply(400), SAME, None),
        ("key with space", to("a b"), b"hello", "POST", 0, Reply(400), SAME, None),
        ("key with a byte over 127", to("{a}\xe9"), b"hello", "POST", 0, Reply(400), SAME, None),
        ("key with DEL", to("{a}\x7f"), b"hello", "POST", 0, BY_SERVER, Reply(400), None),
        (
            "key with underscores in the header",
            [("X_Kuiperbelt_Session", "{a}")],
            b"x",
            "POST",
            0,
            Reply(400, NO_HEADER),
            SAME,
            None,
        ),
        ("GET", to("{a}"), None, "GET", 0, Reply(405, NOT_POST, {"Allow": "POST"}), SAME, None),
        ("PUT", to("{a}"), b"hello", "PUT", 0, Reply(405, NOT_POST, {"Allow": "POST"}), SAME, None),
        ("DELETE", to("{a}"), None, "DELETE", 0, Reply(405, NOT_POST, {"Allow": "POST"}), SAME, None),
        ("OPTIONS", to("{a}"), None, "OPTIONS", 0, Reply(405, NOT_POST, {"Allow": "POST"}), SAME, None),
        ("HEAD", to("{a}"), None, "HEAD", 0, Reply(405, b"", {"Allow": "POST"}), SAME, None),
        ("over 1 MiB", to("{a}"), b"x" * (MIB + 1), "POST", 0, Reply(413), SAME, None),
        ("over 1 MiB in chunks", to("{a}"), b"x" * (MIB + 1), "POST", 65536, Reply(413), SAME, None),
        ("over the limit", to("{a}"), b"x" * 101, "POST", 0, Reply(413), SAME, SMALL),
        ("over the limit in chunks", to("{a}"), b"x" * 101, "POST", 50, Reply(413), SAME, SMALL),
        ("text that is not UTF-8", to("{a}"), b"\xff", "POST", 0, Reply(400), SAME, None),
    )
]

AT_LIMIT: list[Case[Call, Reply]] = [
    row("at the limit", Call(body=b"x" * 100), Reply(200, OK, a=("x" * 100,)), env=SMALL),
    row("at the limit in chunks", Call(body=b"x" * 100, chunk=7), Reply(200, OK, a=("x" * 100,)), env=SMALL),
]


def closing(
    name: str, do: Call, expected: Reply, daphne: Reply | Same = SAME, env: dict[str, str] | None = None
) -> Case[Call, Reply]:
    """A row about /close."""
    return row(f"close, {name}", Call(do.headers, do.body, "POST", "/close", do.chunk), expected, daphne, env)


def coded(code: str, reason: str | None = None) -> Headers:
    """Close `{a}` with a code, and a reason if it is given."""
    headers = [*to("{a}"), ("X-Kuiperbelt-Close-Code", code)]
    return [*headers, ("X-Kuiperbelt-Close-Reason", reason)] if reason is not None else headers


def callback(value: str) -> tuple[str, str]:
    """Whether the close callback shall follow."""
    return "X-Kuiperbelt-Close-Callback", value


GONE = Ended(1000)

CLOSE: list[Case[Call, Reply]] = [
    closing("with a last frame", Call(body=b"bye"), Reply(200, OK, a=("bye",), a_ended=GONE)),
    closing("without one", Call(body=b""), Reply(200, OK, a_ended=GONE)),
    closing("no body at all", Call(body=None), Reply(200, OK, a_ended=GONE)),
    closing(
        "with octets",
        Call(typed("application/octet-stream"), b"\xff"),
        Reply(200, OK, a=(b"\xff",), a_ended=GONE),
    ),
    closing(
        "two sessions", Call(to("{a}", "{b}")), Reply(200, OK, a=("hello",), b=("hello",), a_ended=GONE, b_ended=GONE)
    ),
    closing("two sessions in a list", Call(to("{a},{b}"), b""), Reply(200, OK, a_ended=GONE, b_ended=GONE)),
    closing("unknown session", Call(to("{x}")), Reply(200, not_found("{x}"))),
    closing("one of two is unknown", Call(to("{x}", "{b}")), Reply(200, not_found("{x}"), b=("hello",), b_ended=GONE)),
    closing("strict, one unknown", Call(to("{a}", "{x}")), Reply(400, not_found("{x}", result="NG")), env=STRICT),
    closing("strict, all there", Call(to("{a}", "{b}"), b""), Reply(200, OK, a_ended=GONE, b_ended=GONE), env=STRICT),
    closing("code", Call(coded("3999"), b""), Reply(200, OK, a_ended=Ended(3999))),
    closing("code 1000", Call(coded("1000"), b"x"), Reply(200, OK, a=("x",), a_ended=GONE)),
    closing("code 4999", Call(coded("4999"), b""), Reply(200, OK, a_ended=Ended(4999))),
    closing(
        "code and reason",
        Call(coded("4321", "go away"), b"x"),
        Reply(200, OK, a=("x",), a_ended=Ended(4321, "go away")),
        daphne=Reply(200, OK, a=("x",), a_ended=Ended(4321)),
    ),
    closing(
        "reason only",
        Call([*to("{a}"), ("X-Kuiperbelt-Close-Reason", "done")], b""),
        Reply(200, OK, a_ended=Ended(1000, "done")),
        daphne=Reply(200, OK, a_ended=GONE),
    ),
    *(
        closing(f"code {code!r}", Call(coded(code), b"x"), Reply(400))
        for code in (
            "999",
            "1001",
            "1005",
            "1006",
            "2999",
            "5000",
            "-1000",
            "abc",
            "",
            "99999999999999999999",
            "3000.5",
        )
    ),
    *(
        closing(f"callback {value}", Call([*to("{a}"), callback(value)], b""), Reply(200, OK, a_ended=GONE))
        for value in ("true", "false")
    ),
    *(
        closing(f"callback {value!r}", Call([*to("{a}"), callback(value)], b"x"), Reply(400))
        for value in ("", "1", "True", "true,true")
    ),
    closing("callback twice", Call([*to("{a}"), callback("true"), callback("true")], b"x"), Reply(400)),
    closing("reason of 124 bytes", Call(coded("4000", "r" * 124), b"x"), Reply(400)),
]

# Who may call. All callers of the tests come from the loopback address.
KEYS = {"EKBO_API_KEYS": "first-key-0123456789,second-key-0123456789"}
ALLOWED = KEYS | {"EKBO_API_ALLOW": "127.0.0.0/8"}
OTHERS_ALLOWED = KEYS | {"EKBO_API_ALLOW": "192.0.2.0/24,2001:db8::/32"}


def access(name: str, env: dict[str, str], header: tuple[str, str] | None, status: int) -> list[Case[Call, Reply]]:
    """Rows for /send and /close: with a header or without one."""
    headers = [*to("{a}"), *([header] if header else [])]
    answer = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    refused = Reply(status, headers=answer)
    return [
        row(
            f"send, {name}",
            Call(headers),
            Reply(200, OK, a=("hello",)) if status == 200 else refused,
            env=env,
            section="not allowed",
        ),
        row(
            f"close, {name}",
            Call(headers, path="/close"),
            Reply(200, OK, a=("hello",), a_ended=GONE) if status == 200 else refused,
            env=env,
            section="not allowed",
        ),
    ]


ACCESS: list[Case[Call, Reply]] = [
    *access("no keys, X-Forwarded-For", {}, ("X-Forwarded-For", "192.0.2.1"), 403),
    *access("no keys, X-Forwarded-Host", {}, ("x-forwarded-host", "h"), 403),
    *access("no keys, Forwarded", {}, ("Forwarded", "for=192.0.2.1"), 403),
    *access("no keys, X-Real-IP", {}, ("X-Real-IP", "127.0.0.1"), 403),
    *access("no keys, needless key", {}, ("Authorization", "Bearer x"), 200),
    *access("keys, none given", KEYS, None, 401),
    *access("keys, wrong one", KEYS, ("Authorization", "Bearer first-key-0123456788"), 401),
    *access("keys, part of one", KEYS, ("Authorization", "Bearer first-key"), 401),
    *access("keys, two at once", KEYS, ("Authorization", "Bearer first-key-0123456789,second-key-0123456789"), 401),
    *access("keys, empty", KEYS, ("Authorization", "Bearer "), 401),
    *access("keys, another scheme", KEYS, ("Authorization", "Basic first-key-0123456789"), 401),
    *access("keys, bytes over 127", KEYS, ("Authorization", "Bearer \xe9\xff"), 401),
    *access("keys, first", KEYS, ("Authorization", "Bearer first-key-0123456789"), 200),
    *access("keys, second", KEYS, ("authorization", "bearer second-key-0123456789"), 200),
    *access("keys, but network allowed", ALLOWED, None, 200),
    *access("keys, another network allowed", OTHERS_ALLOWED, None, 401),
    *access(
        "keys, another network allowed, key", OTHERS_ALLOWED, ("Authorization", "Bearer first-key-0123456789"), 200
    ),
]
