"""Proxy to backend: the four callbacks of a connection's life. Nothing here waits for a client."""

import hmac

from flask import Blueprint, Response, abort, current_app, request, session
from itsdangerous import BadSignature, SignatureExpired

from examples.chat.identity import TOKEN_LIFETIME, read_token, session_user
from examples.chat.room import Room
from examples.chat.store import NameTakenError, User

callbacks = Blueprint("callbacks", __name__)

KEY_HEADER = "X-Kuiperbelt-Session"
SECRET_HEADER = "X-Chat-Callback-Secret"
"""The proxy adds it to every callback (proxy_set_header), so that nobody else can play the proxy's part."""


def room() -> Room:
    found: Room = current_app.extensions["room"]
    return found


def refusal(status: int, reason: str) -> Response:
    return Response(reason + "\n", status, mimetype="text/plain")


@callbacks.before_request
def check_secret() -> None:
    expected = current_app.config["CALLBACK_SECRET"]
    if expected and not hmac.compare_digest(request.headers.get(SECRET_HEADER, "").encode(), expected.encode()):
        abort(refusal(403, "expected the proxy's secret"))


@callbacks.get("/connect")
def connect() -> Response:
    """May this client connect? Anything but 200 refuses it, with this status and body."""
    user: User | None = None
    if token := request.args.get("token"):
        try:
            user = read_token(token)
        except SignatureExpired:
            return refusal(401, f"The token is older than {TOKEN_LIFETIME} seconds.")
        except BadSignature:
            return refusal(401, "The token is not valid.")
    else:
        user = session_user(session)
    if user is None:
        return refusal(401, "Please log in first.")
    try:
        key, first_frame = room().enter(user)
    except NameTakenError:
        return refusal(403, f"Somebody else is online as {user.name}.")
    return Response(first_frame, 200, {KEY_HEADER: key}, mimetype="application/json")


@callbacks.post("/establish")
def establish() -> Response:
    """The session can be reached from now on; its first frame goes out after this answer."""
    if not room().arrive(session_key()):
        return refusal(404, "unknown session")
    return Response("", 200)


@callbacks.post("/receive")
def receive() -> Response:
    """A frame from the client. The proxy waits for this answer before it passes on the next one."""
    if not room().hear(session_key(), request.get_data().decode(errors="replace")):
        return refusal(404, "unknown session")
    return Response("", 200)


@callbacks.post("/close")
def close() -> Response:
    """The session has ended, for whatever reason; may come for sessions that are forgotten already."""
    room().leave(session_key())
    return Response("", 200)


def session_key() -> str:
    return request.headers.get(KEY_HEADER, "")
