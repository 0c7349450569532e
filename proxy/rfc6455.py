"""The pure rules of the WebSocket protocol that the server needs itself: its handshake, its frames, its messages.

Reading frames, and what is wrong with them, is left to the websockets library. Used by websocket.py.
"""

import base64
import binascii
import hashlib
from http import HTTPStatus

from websockets.frames import Frame, Opcode

from proxy.exceptions import ConnectRefused
from proxy.protocol import Headers, Message, header_values

TEXT, BINARY = 0x81, 0x82
"""First byte of an unfragmented data frame (RFC 6455 section 5.2)."""

PING = b"\x89\x00"
"""A whole ping, without payload."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_token(method: str, http_version: str, headers: Headers) -> bytes:
    """Sec-WebSocket-Accept for a handshake (RFC 6455 section 4.2); raises ConnectRefused for a bad one.

    That it asks for an upgrade to websocket is known already.
    """
    if method != "GET" or http_version != "1.1":
        raise ConnectRefused.plain(400, f"expected GET with HTTP/1.1, found {method} with HTTP/{http_version}")
    if len(header_values(headers, b"host")) != 1:
        raise ConnectRefused.plain(400, "expected one Host header")
    if header_values(headers, b"sec-websocket-version") != [b"13"]:
        refusal = ConnectRefused.plain(426, "expected Sec-WebSocket-Version: 13")
        refusal.headers = (*refusal.headers, (b"sec-websocket-version", b"13"), (b"upgrade", b"websocket"))
        raise refusal
    keys = header_values(headers, b"sec-websocket-key")
    try:
        valid = len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == 16
    except binascii.Error:
        valid = False
    if not valid:
        raise ConnectRefused.plain(400, "expected one Sec-WebSocket-Key of 16 bytes in base64")
    return base64.b64encode(hashlib.sha1(keys[0] + _GUID, usedforsecurity=False).digest())


def subprotocols(headers: Headers) -> list[str]:
    """What the client offers, most wanted first."""
    values = header_values(headers, b"sec-websocket-protocol")
    return [name for value in values for part in value.decode("latin-1").split(",") if (name := part.strip())]


_last: tuple[Message, bytes] = ({}, b"")


def frame(message: Message) -> bytes:
    """The frame that a websocket.send message makes. It is encoded once for all sessions that get the same message."""
    global _last
    if message is not _last[0]:
        text = message.get("text")
        first, payload = (BINARY, message["bytes"]) if text is None else (TEXT, text.encode())
        _last = message, frame_head(first, len(payload)) + payload
    return _last[1]


def frame_head(first: int, size: int) -> bytes:
    """What stands before the payload of a frame from a server, which isn't masked (RFC 6455 section 5.2)."""
    if size < 126:
        return bytes((first, size))
    if size < 65536:
        return bytes((first, 126)) + size.to_bytes(2, "big")
    return bytes((first, 127)) + size.to_bytes(8, "big")


class Fragments:
    """Puts a client's messages together from their frames (RFC 6455 section 5.4), whose order the library checks."""

    __slots__ = ("_is_text", "_parts")

    def __init__(self) -> None:
        self._parts = bytearray()  # not a list: a client may send fragments of one byte
        self._is_text = False

    def add(self, frame: Frame) -> Message | None:
        """The message, as `text` or `bytes`, that ends with this data frame; raises UnicodeDecodeError."""
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        if not frame.fin:
            self._parts += frame.data
            return None
        data = bytes(self._parts + frame.data) if self._parts else bytes(frame.data)
        self._parts.clear()
        return {"text": data.decode()} if self._is_text else {"bytes": data}


def http_head(status: int, headers: Headers) -> bytes:
    """Status line and headers of an HTTP answer."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    lines = [
        b"HTTP/1.1 %d %s\r\n" % (status, phrase.encode()),
        *(b"%s: %s\r\n" % header for header in headers),
        b"\r\n",
    ]
    return b"".join(lines)
