"""Rows of the contract's section GET {path.connect}."""

from __future__ import annotations

import gzip

from tests.backend import Answer, welcome
from tests.vectors import SAME, Case, Connect, Opened, Refused, Seen

FORBIDDEN = Refused(403)
BAD_GATEWAY = Refused(502)
UNASKED_FORBIDDEN = Refused(403, asked=False)
LIMIT = 64 * 1024  # bytes of a backend's body
SHORT = {"EKBO_CALLBACK_TIMEOUT": "500ms"}
NOBODY = {"EKBO_CONNECT_CALLBACK_URL": "http://127.0.0.1:1/connect"}

# 1. Checked before the backend is asked.
BEFORE: list[Case[Connect, Opened | Refused]] = [
    Case(
        name="plain GET",
        section="connect 1",
        do=Connect(without=("Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version")),
        expected=Refused(426, headers={"Upgrade": "websocket"}, asked=False),
        daphne=SAME,
    ),
    Case(
        name="plain POST",
        section="connect 1",
        do=Connect(method="POST", without=("Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version")),
        expected=Refused(426, asked=False),
        daphne=SAME,
    ),
    Case(
        name="another upgrade",
        section="connect 1",
        do=Connect(without=("Upgrade",), headers=[("Upgrade", "h2c")]),
        expected=Refused(426, asked=False),
        daphne=SAME,
    ),
    Case(
        name="POST that upgrades",
        section="connect 1",
        do=Connect(method="POST"),
        expected=Refused(400, asked=False),
        daphne=Refused(405, asked=False),
    ),
    Case(
        name="Connection without Upgrade",
        section="connect 1",
        do=Connect(without=("Connection",), headers=[("Connection", "keep-alive")]),
        expected=Refused(426, asked=False),
        daphne=Refused(400, asked=False),
    ),
    Case(
        name="wrong version",
        section="connect 1",
        do=Connect(without=("Sec-WebSocket-Version",), headers=[("Sec-WebSocket-Version", "12")]),
        expected=Refused(426, asked=False),
        daphne=Refused(400, asked=False),
    ),
    Case(
        name="no version",
        section="connect 1",
        do=Connect(without=("Sec-WebSocket-Version",)),
        expected=Refused(426, asked=False),
        daphne=Refused(400, asked=False),
    ),
    Case(
        name="no key",
        section="connect 1",
        do=Connect(without=("Sec-WebSocket-Key",)),
        expected=Refused(400, asked=False),
        daphne=SAME,
    ),
    Case(
        name="short key",
        section="connect 1",
        do=Connect(without=("Sec-WebSocket-Key",), headers=[("Sec-WebSocket-Key", "c2hvcnQ=")]),
        expected=Refused(400, asked=False),
        daphne=SAME,
    ),
    Case(
        name="key that is not base64",
        section="connect 1",
        do=Connect(without=("Sec-WebSocket-Key",), headers=[("Sec-WebSocket-Key", "!!!!!!!!!!!!!!!!!!!!!!==")]),
        expected=Refused(400, asked=False),
        daphne=SAME,
    ),
    Case(
        name="two keys",
        section="connect 1",
        do=Connect(headers=[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]),
        expected=Refused(400, asked=False),
        daphne=SAME,
    ),
]


def origin(
    policy: str, name: str, value: str | None, allowed: bool, host: str = "{host}", malformed: bool = False
) -> Case[Connect, Opened | Refused]:
    """A row about an Origin header under one policy; value None: the client sends none."""
    headers = [("Host", host), *([("Origin", value)] if value is not None else [])]
    return Case(
        name=f"origin {name}",
        section="origin_policy",
        env={"EKBO_ORIGIN_POLICY": policy},
        do=Connect(headers=headers),
        expected=Opened() if allowed else UNASKED_FORBIDDEN,
        # What is no origin at all daphne refuses by itself.
        daphne=Refused(400, asked=False) if malformed else SAME,
    )


LIST = "https://good.example,http://other.example:8080"

ORIGINS: list[Case[Connect, Opened | Refused]] = [
    origin("none", "any", "http://evil.example", True),
    origin("none", "none", None, True),
    origin("same_origin", "own", "http://{host}", True),
    origin("same_origin", "missing", None, True),
    origin("same_origin", "of another port", "http://127.0.0.1:1", False),
    origin("same_origin", "of another host", "http://evil.example", False),
    origin("same_origin", "with own as prefix", "http://{host}.evil.example", False, malformed=True),
    origin("same_origin", "with own as user", "http://{host}@evil.example", False),
    origin("same_origin", "null", "null", False),
    origin("same_origin", "empty", "", False, malformed=True),
    origin("same_hostname", "own host, another port", "http://127.0.0.1:1", True),
    origin("same_hostname", "own host, Host without port", "http://chat.example", True, host="chat.example"),
    origin("same_hostname", "own host in another case", "http://CHAT.example", True, host="chat.EXAMPLE:81"),
    origin("same_hostname", "host missing", None, True),
    origin("same_hostname", "host with own as suffix", "http://evilchat.example", False, host="chat.example"),
    origin("same_hostname", "host with own as prefix", "http://chat.example.evil.example", False, host="chat.example"),
    origin("same_hostname", "null host", "null", False),
    origin(LIST, "listed", "https://good.example", True),
    origin(LIST, "listed with port", "http://other.example:8080", True),
    origin(LIST, "listed, none sent", None, True),
    origin(LIST, "listed with another scheme", "http://good.example", False),
    origin(LIST, "listed with another port", "https://good.example:444", False),
    origin(LIST, "listed as prefix", "https://good.example.evil.example", False),
    origin(LIST, "not listed, own", "http://{host}", False),
    origin(LIST, "null, not listed", "null", False),
    Case(
        name="origin twice",
        section="origin_policy",
        env={"EKBO_ORIGIN_POLICY": "same_hostname"},
        do=Connect(headers=[("Origin", "http://127.0.0.1"), ("Origin", "http://127.0.0.1")]),
        expected=Refused(403, asked=False),
        daphne=SAME,
    ),
]


def answered(
    name: str,
    answer: Answer,
    expected: Opened | Refused,
    daphne: Opened | Refused | None = None,
    env: dict[str, str] | None = None,
    do: Connect | None = None,
) -> Case[Connect, Opened | Refused]:
    """A row of the answers table. Refusals are a bare 403 on daphne, which has no denial responses."""
    do = do or Connect()
    otherwise = FORBIDDEN if isinstance(expected, Refused) else SAME
    return Case(
        name=name,
        section="connect 3",
        env=env or {},
        do=Connect(do.query, do.headers, do.without, do.method, do.path, answer),
        expected=expected,
        daphne=daphne or otherwise,
    )


def status(code: int, *headers: tuple[str, str], body: bytes = b"") -> Answer:
    """A backend's refusal."""
    return Answer(status=code, headers=headers, body=body)


OFFER = Connect(headers=[("Sec-WebSocket-Protocol", "chat, superchat")])
HEAD = b"HTTP/1.1 200 OK\r\nX-Kuiperbelt-Session: {key}\r\n"
SMALL_GZIP = gzip.compress(b"x" * 1000)
BOMB = gzip.compress(b"x" * 20_000_000)

ANSWERS: list[Case[Connect, Opened | Refused]] = [
    # 200 with a session key
    answered("200, no body", welcome("{key}"), Opened()),
    answered("200, body without type", welcome("{key}", b"hi \xc3\xa9"), Opened(("hi é",))),
    answered("200, text", welcome("{key}", b"hi", ("Content-Type", "text/html; charset=utf-8")), Opened(("hi",))),
    answered(
        "200, octets",
        welcome("{key}", b"\xff\x00", ("Content-Type", "application/octet-stream")),
        Opened((b"\xff\x00",)),
    ),
    answered(
        "200, octets in capitals with a parameter",
        welcome("{key}", b"\xff", ("content-type", "Application/OCTET-Stream ; x=y")),
        Opened((b"\xff",)),
    ),
    answered("200, body of 64 KiB", welcome("{key}", b"x" * LIMIT), Opened(("x" * LIMIT,))),
    answered(
        "200, chunked body",
        Answer(raw=HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
        Opened(("hello",)),
    ),
    answered(
        "200, body up to the end",
        Answer(raw=HEAD + b"\r\nhello"),
        Opened(("hello",)),
    ),
    answered("200, header in lower case", Answer(headers=[("x-kuiperbelt-session", "{key}")]), Opened()),
    answered("200, key of 256", welcome("{key}" + "k" * 251), Opened(), do=Connect(query="key={key}" + "k" * 251)),
    answered("200, key of signs", welcome("!~/{key}=;"), Opened()),
    answered(
        "200, subprotocol chosen",
        welcome("{key}", b"", ("Sec-WebSocket-Protocol", "superchat")),
        Opened(subprotocol="superchat"),
        do=OFFER,
    ),
    answered("200, subprotocol offered and none chosen", welcome("{key}"), Opened(), do=OFFER),
    # 200 without key, two keys, or a bad key
    answered("200 without key", Answer(), BAD_GATEWAY),
    answered("200, two keys", welcome("{key}", b"", ("X-Kuiperbelt-Session", "other{key}")), BAD_GATEWAY),
    answered("200, empty key", welcome(""), BAD_GATEWAY),
    answered("200, key of 257", welcome("k" * 257), BAD_GATEWAY),
    answered("200, key with comma", welcome("{key},b"), BAD_GATEWAY),
    answered("200, key with space", welcome("{key} b"), BAD_GATEWAY),
    answered("200, key with a byte over 127", welcome("{key}\xe9"), BAD_GATEWAY),
    answered("200, key with a control byte", welcome("{key}\x01b"), BAD_GATEWAY),
    # any other 2xx, 4xx, 5xx
    answered("201", status(201, body=b"made"), Refused(201, b"made")),
    answered("202 with a key", Answer(status=202, headers=[("X-Kuiperbelt-Session", "{key}")]), Refused(202, b"")),
    answered("204", status(204), Refused(204, b"")),
    answered("400", status(400, body=b"bad"), Refused(400, b"bad")),
    answered(
        "401 with body",
        status(
            401,
            ("Content-Type", "application/problem+json"),
            ("WWW-Authenticate", 'Bearer realm="x"'),
            body=b'{"login":true}',
        ),
        Refused(
            401,
            b'{"login":true}',
            {"Content-Type": "application/problem+json", "WWW-Authenticate": 'Bearer realm="x"'},
        ),
    ),
    answered(
        "403 of the backend",
        status(403, ("Content-Type", "text/plain"), body=b"no"),
        Refused(403, b"no", {"Content-Type": "text/plain"}),
    ),
    answered("404", status(404, body=b"\xff\xfe"), Refused(404, b"\xff\xfe")),
    answered("429 with Retry-After", status(429, ("Retry-After", "7")), Refused(429, b"", {"Retry-After": "7"})),
    answered("500 of the backend", status(500, body=b"oops"), Refused(500, b"oops")),
    answered(
        "503 of the backend",
        status(503, ("Retry-After", "120"), body=b"later"),
        Refused(503, b"later", {"Retry-After": "120"}),
    ),
    answered(
        "refusal with headers of its own",
        status(
            403, ("Set-Cookie", "a=b"), ("Upgrade", "websocket"), ("X-Secret", "s"), ("X-Kuiperbelt-Session", "{key}")
        ),
        Refused(403, absent=("Set-Cookie", "Upgrade", "X-Secret", "X-Kuiperbelt-Session")),
    ),
    answered("refusal over 64 KiB", status(403, body=b"y" * (LIMIT + 1000)), Refused(403, b"y" * LIMIT)),
    # 3xx
    answered(
        "302",
        status(302, ("Location", "http://{backend}/elsewhere/connect?key={key}")),
        Refused(502, absent=("Location",)),
    ),
    answered("304", status(304), BAD_GATEWAY),
    # unreachable, timeout, malformed, body over 64 KiB
    answered("backend closed", welcome("{key}"), Refused(502, asked=False), Refused(403, asked=False), env=NOBODY),
    answered("backend hangs", welcome("{key}", delay=1.5), BAD_GATEWAY, env=SHORT),
    answered(
        "slow drip",
        Answer(headers=[("X-Kuiperbelt-Session", "{key}")], body=b"d" * 15, drip=0.1),
        BAD_GATEWAY,
        env=SHORT,
    ),
    answered("garbage status line", Answer(raw=b"HELO example\r\n\r\n"), BAD_GATEWAY),
    answered(
        "status that is no number", Answer(raw=b"HTTP/1.1 two OK\r\nX-Kuiperbelt-Session: {key}\r\n\r\n"), BAD_GATEWAY
    ),
    answered("hang-up without answer", Answer(hang_up=True), BAD_GATEWAY),
    answered("reset without answer", Answer(raw=b"", reset=True), BAD_GATEWAY),
    answered(
        "reset after the headers",
        Answer(raw=HEAD + b"Content-Length: 10\r\n\r\nhi", reset=True),
        BAD_GATEWAY,
    ),
    answered(
        "end before the end",
        Answer(raw=HEAD + b"Content-Length: 10\r\n\r\nhi"),
        BAD_GATEWAY,
    ),
    answered(
        "bad chunk",
        Answer(raw=HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhi\r\n"),
        BAD_GATEWAY,
    ),
    answered("body over 64 KiB", welcome("{key}", b"x" * (LIMIT + 1)), BAD_GATEWAY),
    answered("endless body", Answer(headers=[("X-Kuiperbelt-Session", "{key}")], endless=True), BAD_GATEWAY),
    answered(
        "endless header",
        Answer(raw=HEAD + b"X-Long: " + b"l" * 1_000_000 + b"\r\n\r\n"),
        BAD_GATEWAY,
    ),
    answered(
        "gzip bomb", welcome("{key}", BOMB, ("Content-Encoding", "gzip"), ("Content-Type", "text/plain")), BAD_GATEWAY
    ),
    answered(
        "gzip in octets",
        welcome("{key}", SMALL_GZIP, ("Content-Encoding", "gzip"), ("Content-Type", "application/octet-stream")),
        BAD_GATEWAY,
    ),
    answered("text that is not UTF-8", welcome("{key}", b"\xff\xfe"), BAD_GATEWAY),
]


# 2. What the auth callback looks like.
CONFIGURED = {
    "EKBO_CONNECT_CALLBACK_URL": "http://{backend}/app/connect?token=s3cret&v=1",
    "EKBO_SESSION_HEADER_NAME": "x-app-session",
    "EKBO_SELF_ENDPOINT_URL": "node7.internal:9180",
    "EKBO_PROXY_SET_HEADER": (
        '{"X-Static": "one", "X-Unwanted": "", "User-Agent": "proxy/1", "X-Kuiperbelt-Subprotocols": ""}'
    ),
    "EKBO_TRUSTED_PROXIES": "127.0.0.0/8",
}


def passed(
    name: str, do: Connect, seen: Seen, daphne: Seen | None = None, env: dict[str, str] | None = None
) -> Case[Connect, Seen]:
    """A row about what passes from client to backend."""
    return Case(name=name, section="connect 2", env=env or {}, do=do, expected=seen, daphne=daphne or SAME)


CALLBACK: list[Case[Connect, Seen]] = [
    passed(
        "query as it stands",
        Connect(query="key={key}&a=%20b&c=d+e&a=2&&x=%zz&=&y"),
        Seen(target="/connect?key={key}&a=%20b&c=d+e&a=2&&x=%zz&=&y"),
    ),
    passed(
        "query beside the configured one",
        Connect(query="token=evil&key={key}&x=1&%74oken=evil2&V=2&v=9&token"),
        Seen(target="/app/connect?token=s3cret&v=1&key={key}&x=1&V=2"),
        env=CONFIGURED,
    ),
    passed(
        "ordinary headers",
        Connect(
            headers=[
                ("Cookie", "a=b; c=d"),
                ("Authorization", "Basic eDp5"),
                ("User-Agent", "test/1"),
                ("Origin", "http://o.example"),
                ("X-Custom", "v, w"),
                ("Accept-Language", "de"),
            ]
        ),
        Seen(
            {
                "Cookie": ("a=b; c=d",),
                "Authorization": ("Basic eDp5",),
                "User-Agent": ("test/1",),
                "Origin": ("http://o.example",),
                "X-Custom": ("v, w",),
                "Accept-Language": ("de",),
            }
        ),
    ),
    passed(
        "repeated headers",
        Connect(headers=[("X-Multi", "a"), ("X-Other", "o"), ("x-multi", "b")]),
        Seen({"X-Multi": ("a", "b"), "X-Other": ("o",)}),
        daphne=Seen({"X-Multi": ("a,b",), "X-Other": ("o",)}),
    ),
    passed(
        "hop-by-hop headers",
        Connect(
            without=("Connection",),
            headers=[
                ("Connection", "keep-alive, Upgrade, X-Drop,x-gone"),
                ("X-Drop", "1"),
                ("X-Gone", "1"),
                ("Keep-Alive", "timeout=5"),
                ("Proxy-Connection", "keep-alive"),
                ("TE", "trailers"),
                ("X-Stays", "1"),
            ],
        ),
        Seen(
            {
                "X-Drop": (),
                "X-Gone": (),
                "Keep-Alive": (),
                "Proxy-Connection": (),
                "TE": (),
                "Upgrade": (),
                "X-Stays": ("1",),
            }
        ),
    ),
    passed(
        "headers of the handshake",
        Connect(
            headers=[("Accept-Encoding", "br-evil"), ("Sec-WebSocket-Extensions", "x-nothing"), ("Content-Length", "0")]
        ),
        Seen(
            {
                "Host": ("{backend}",),
                "Sec-WebSocket-Key": (),
                "Sec-WebSocket-Version": (),
                "Sec-WebSocket-Extensions": (),
                "Upgrade": (),
                "Content-Length": (),
                "Content-Type": (),
            }
        ),
    ),
    passed(
        "forged headers",
        Connect(
            headers=[
                ("X-Kuiperbelt-Endpoint", "evil:1"),
                ("X-Kuiperbelt-Session", "admin"),
                ("x-kuiperbelt-connection", "0"),
                ("X-Kuiperbelt-Whatever", "1"),
                ("X_Kuiperbelt_Session", "admin"),
                ("X_Plain", "1"),
                ("X-Forwarded-For", "6.6.6.6"),
                ("X-Forwarded-Proto", "https"),
                ("X-Forwarded-Host", "evil.example"),
            ]
        ),
        Seen(
            {
                "X-Kuiperbelt-Endpoint": ("{hostname}:{port}",),
                "X-Kuiperbelt-Session": (),
                "X-Kuiperbelt-Whatever": (),
                "X_Kuiperbelt_Session": (),
                "X_Plain": (),
                "X-Forwarded-For": ("127.0.0.1",),
                "X-Forwarded-Proto": ("http",),
                "X-Forwarded-Host": ("{host}",),
            }
        ),
    ),
    passed(
        "added headers",
        Connect(headers=[("Sec-WebSocket-Protocol", "chat, superchat"), ("Host", "chat.example")]),
        Seen(
            {
                "X-Kuiperbelt-Subprotocols": ("chat, superchat",),
                "Sec-WebSocket-Protocol": (),
                "X-Kuiperbelt-Endpoint": ("{hostname}:{port}",),
                "X-Forwarded-For": ("127.0.0.1",),
                "X-Forwarded-Proto": ("http",),
                "X-Forwarded-Host": ("chat.example",),
                "Host": ("{backend}",),
            }
        ),
    ),
    passed(
        "configured headers",
        Connect(
            headers=[
                ("X-Static", "forged"),
                ("X-Unwanted", "1"),
                ("User-Agent", "client/1"),
                ("X-App-Session", "admin"),
                ("Sec-WebSocket-Protocol", "chat"),
            ]
        ),
        Seen(
            {
                "X-Static": ("one",),
                "X-Unwanted": (),
                "User-Agent": ("proxy/1",),
                "X-App-Session": (),
                "X-Kuiperbelt-Endpoint": ("node7.internal:9180",),
                "X-Kuiperbelt-Subprotocols": (),
            }
        ),
        env=CONFIGURED,
    ),
    passed(
        "forwarded by a trusted proxy",
        Connect(
            headers=[
                ("X-Forwarded-For", "6.6.6.6"),
                ("X-Forwarded-Proto", "https"),
                ("X-Forwarded-Host", "chat.example"),
            ]
        ),
        Seen(
            {
                "X-Forwarded-For": ("6.6.6.6, 127.0.0.1",),
                "X-Forwarded-Proto": ("https",),
                "X-Forwarded-Host": ("chat.example",),
            }
        ),
        env=CONFIGURED,
    ),
]
