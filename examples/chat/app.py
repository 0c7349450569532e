"""The chat's WSGI application: the page and its login. Run it under gunicorn: `examples.chat.app:create_app()`.

Configured by environment variables, all named CHAT_*; the README lists them.
"""

import os
import re
import urllib.parse

from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    current_app,
    g,
    jsonify,
    redirect,
    render_template,
    request,
    session,
)
from werkzeug.wrappers import Response as BaseResponse

from examples.chat.callbacks import callbacks, refusal, room
from examples.chat.identity import make_token, new_user, session_user
from examples.chat.push import Proxy
from examples.chat.room import MAX_NAME, MAX_TEXT, InvalidError, Room, clean_name
from examples.chat.store import NameTakenError, Store, default_path

page = Blueprint("page", __name__)

HOST = re.compile(r"[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]")


def create_app() -> Flask:
    """Each worker process makes its own; what they share is in the store."""
    app = Flask(__name__)
    store = Store(default_path())
    proxy_url = os.environ.get("CHAT_PROXY_URL", "http://127.0.0.1:9180")
    app.extensions["room"] = Room(store, Proxy(proxy_url, os.environ.get("CHAT_PROXY_API_KEY")))
    app.secret_key = os.environ.get("CHAT_SECRET") or store.secret()
    app.config.update(
        CALLBACK_SECRET=os.environ.get("CHAT_CALLBACK_SECRET", ""),
        PROXY_PORT=urllib.parse.urlsplit(proxy_url).port or 80,
        SOCKET_URL=os.environ.get("CHAT_SOCKET_URL", ""),
        MAX_CONTENT_LENGTH=64 * 1024,
        SESSION_COOKIE_NAME="chat",
        SESSION_COOKIE_SAMESITE="Lax",
    )
    app.register_blueprint(page)
    app.register_blueprint(callbacks)
    return app


def socket_url() -> str:
    """Where the page's WebSocket goes: CHAT_SOCKET_URL, or the proxy's port on the host the page came from."""
    configured: str = current_app.config["SOCKET_URL"]
    return configured or f"ws://{request_host()}:{current_app.config['PROXY_PORT']}/connect"


def request_host() -> str:
    """The Host header without its port. It ends up in a header of ours, so it is checked."""
    host = re.sub(r":\d*$", "", request.host)
    if not HOST.fullmatch(host):
        abort(refusal(400, "expected a host name in the Host header"))
    return host


@page.before_request
def check_request() -> None:
    """No other site's page may log anybody in or out (browsers tell where a request comes from)."""
    g.socket = urllib.parse.urlsplit(socket_url())
    if request.method == "POST" and request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        abort(refusal(403, "The request comes from another site."))


@page.after_request
def harden(response: Response) -> Response:
    socket = f"{g.socket.scheme}://{g.socket.netloc}" if "socket" in g else ""
    response.headers["Content-Security-Policy"] = (
        f"default-src 'self'; connect-src 'self' {socket}; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["Cache-Control"] = "no-store"
    return response


@page.get("/")
def index() -> str:
    user = session_user(session)
    if user is None:
        return render_template("login.html", max_name=MAX_NAME, name="", error="")
    return render_template("chat.html", user=user, max_text=MAX_TEXT)


@page.post("/login")
def log_in() -> BaseResponse | tuple[str, int]:
    typed = request.form.get("name", "")
    try:
        user = new_user(clean_name(typed))
        room().check_name(user)
    except InvalidError as error:
        return render_template("login.html", max_name=MAX_NAME, name=typed, error=str(error)), 400
    except NameTakenError:
        reason = f"Somebody else is online as {user.name}. Please choose another name."
        return render_template("login.html", max_name=MAX_NAME, name=typed, error=reason), 403
    session.clear()
    session.update(uid=user.uid, name=user.name)
    return redirect("/", 303)


@page.post("/logout")
def log_out() -> BaseResponse:
    if user := session_user(session):
        room().log_out(user)
    session.clear()
    return redirect("/", 303)


@page.post("/ticket")
def ticket() -> tuple[Response, int]:
    """Where to connect, asked by the page before each try: a browser hides from it why a handshake was refused."""
    user = session_user(session)
    if user is None:
        return jsonify(reason="You are logged out."), 401
    try:
        room().check_name(user)
    except NameTakenError:
        return jsonify(reason=f"Somebody else is online as {user.name} now."), 403
    url = g.socket.geturl()
    if g.socket.netloc.rsplit(":", 1)[0] != request_host():
        url += "?" + urllib.parse.urlencode({"token": make_token(user)})
    return jsonify(url=url), 200
