"""The how-to guides' backends, as they stand there but for ports and keys, with a proxy and clients with cookies."""

from __future__ import annotations

import asyncio
import base64
import getpass
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.clients import receive, request, send
from tests.redis_servers import eventually
from tests.servers import ROOT, Server, Servers, free_port
from tests.test_nginx import START
from tests.test_readme import ready

KEY = "whsec_" + base64.b64encode(bytes(range(32))).decode()
LANGUAGES = {"php": "php", "django-sessions": "python", "rails": "ruby"}

LOGIN_PHP = """<?php
session_start();
$_SESSION['user'] = 'user.1';
"""
LOGIN_RB = {
    "app/models/user.rb": "class User < ActiveRecord::Base\nend\n",
    "app/controllers/login_controller.rb": """
class LoginController < ActionController::Base
  def create
    session[:user_id] = User.create!.id
    head :ok
  end
end
""",
    "config/initializers/users.rb": """
Rails.application.config.after_initialize { ActiveRecord::Schema.define { create_table(:users) } }
""",
}
SITE_PY = """
import django
from django.conf import settings
settings.configure(
    SECRET_KEY="test", ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF="site_urls", KUIPERBELT_URL="{proxy}",
    KUIPERBELT_SIGNING_KEYS=["{key}"],
    DATABASES={{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "{db}"}}}},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware", "django.middleware.csrf.CsrfViewMiddleware",
                "django.contrib.auth.middleware.AuthenticationMiddleware"],
)
django.setup()
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.db import connections
call_command("migrate", verbosity=0)
User.objects.get_or_create(pk=1, username="bob")
connections.close_all()  # before gunicorn forks
application = get_wsgi_application()
"""
SITE_URLS_PY = """
from django.contrib.auth import login
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.urls import include, path
def log_in(request):
    login(request, User.objects.get(pk=1))
    return HttpResponse()
urlpatterns = [path("kuiperbelt/", include("callbacks")), path("login", log_in)]
"""


def guide(name: str) -> tuple[list[str], dict[str, str]]:
    """Its code, and the options that it sets."""
    text = (ROOT / f"docs/howto-{name}.md").read_text()
    code = re.findall(rf"^```{LANGUAGES[name]}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    (shell,) = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    *exports, last = shell.splitlines()
    assert last == ".venv/bin/python manage.py runproxy"
    options = dict(line.removeprefix("export ").split("=", 1) for line in exports)
    return code, {name: value.strip("'") for name, value in options.items()}


async def started(servers: Servers, options: Mapping[str, str], backend_port: int) -> Server:
    changed = {name: value.replace("127.0.0.1:9181", f"127.0.0.1:{backend_port}") for name, value in options.items()}
    assert changed["EKBO_CALLBACK_SIGNING_KEYS"] == "whsec_SIGNING_KEY"
    return await servers.start(
        "uvicorn", changed | {"EKBO_CALLBACK_SIGNING_KEYS": KEY, "EKBO_ESTABLISH_CALLBACK_URL": ""}
    )


@asynccontextmanager
async def backend(command: list[str], port: int, home: Path, env: Mapping[str, str]) -> AsyncIterator[Path]:
    """The guide's backend; gives the file of what it prints."""
    log = home / "backend.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=home, env={**os.environ, **env}, stdout=output, stderr=output
        )
    try:
        await ready(port)
        yield log
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()


def said(log: Path) -> str:
    return log.read_text()


async def lives(server: Server, login: str, backend_port: int, callback: str, log: Path) -> None:
    """A client's life: refused, logged in, welcomed, answered, pushed to, gone; and a stranger's callback."""
    url = f"ws://127.0.0.1:{server.port}/connect"
    with pytest.raises(InvalidStatus) as refused:
        await connect(url)
    assert (refused.value.response.status_code, refused.value.response.body) == (401, b"please log in\n")

    def log_in() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{backend_port}/{login}", timeout=10) as answer:
            return "; ".join(cookie.partition(";")[0] for cookie in answer.headers.get_all("Set-Cookie"))

    cookie = await asyncio.to_thread(log_in)
    async with connect(url, additional_headers={"Cookie": cookie}) as client:
        assert await receive(client) == "welcome"
        await client.send("grüße")
        assert await receive(client) == "you said: grüße"
        assert (await send(server, "user.1", b"from elsewhere")).status == 200
        assert await receive(client) == "from elsewhere"

    async def told() -> bool:
        return "user.1 has gone: client" in said(log)

    await eventually(told, "the close callback", 10)
    stranger = Server("backend", {}, backend_port, log, server.process)
    forged = await request(stranger, "POST", callback, [("X-Kuiperbelt-Session", "user.1")], b"forged")
    assert (forged.status, forged.body) == (403, b"expected the proxy's signature\n")


FPM = next(Path("/usr/sbin").glob("php-fpm*"))
FPM_CONF = """
[global]
daemonize = no
[www]
user = {user}
listen = 127.0.0.1:{fpm}
pm = static
pm.max_children = 2
php_admin_value[session.save_path] = {home}
{env}
"""
FPM_NGINX = """
server {{
    listen 127.0.0.1:{port};
    root {home};
    location ~ \\.php$ {{
        include /etc/nginx/fastcgi_params;
        fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
        fastcgi_pass 127.0.0.1:{fpm};
    }}
}}
"""


@asynccontextmanager
async def php(way: str, port: int, home: Path, env: Mapping[str, str]) -> AsyncIterator[Path]:
    """PHP's own server, or FPM behind nginx, whose pool has the variables as the guide says."""
    if way == "built-in":
        command = ["php", "-d", f"session.save_path={home}", "-S", f"127.0.0.1:{port}"]
        async with backend(command, port, home, env) as log:
            yield log
        return
    fpm, front = free_port(), home / "nginx"
    front.mkdir()
    (line,) = re.findall(r"`(env\[CALLBACK_KEY\] = .*?)`", (ROOT / "docs/howto-php.md").read_text())
    lines = "\n".join(line.replace("CALLBACK_KEY", name).replace("…", value) for name, value in env.items())
    (home / "fpm.conf").write_text(FPM_CONF.format(user=getpass.getuser(), fpm=fpm, home=home, env=lines))
    (front / "nginx.conf").write_text(START + FPM_NGINX.format(port=port, home=home, fpm=fpm) + "}\n")
    async with (
        backend([str(FPM), "--allow-to-run-as-root", "--fpm-config", "fpm.conf"], fpm, home, {}),
        backend(["nginx", "-p", ".", "-c", "nginx.conf", "-e", "stderr"], port, front, {}) as log,
    ):
        yield log  # error_log() writes into nginx's


@pytest.mark.parametrize("way", ["built-in", "fpm"])
async def test_php(way: str, servers: Servers, tmp_path: Path) -> None:
    (callbacks, push), options = guide("php")
    (tmp_path / "callbacks.php").write_text(callbacks)
    (tmp_path / "push.php").write_text(push)
    (tmp_path / "login.php").write_text(LOGIN_PHP)
    shutil.copy(ROOT / "examples/verify/verify.php", tmp_path)
    port = free_port()
    server = await started(servers, options, port)
    env = {"CALLBACK_KEY": KEY, "PROXY_URL": f"http://127.0.0.1:{server.port}"}
    async with php(way, port, tmp_path, env) as log:
        await lives(server, "login.php", port, "/callbacks.php?callback=receive", log)
        assert "Warning" not in said(log)
    await server.stop()


async def test_django_sessions(servers: Servers, tmp_path: Path) -> None:
    (callbacks,), options = guide("django-sessions")
    (tmp_path / "callbacks.py").write_text(callbacks)
    shutil.copy(ROOT / "examples/verify/verify.py", tmp_path)
    port = free_port()
    server = await started(servers, options, port)
    proxy = f"http://127.0.0.1:{server.port}"
    (tmp_path / "site_wsgi.py").write_text(SITE_PY.format(proxy=proxy, key=KEY, db=tmp_path / "site.sqlite3"))
    (tmp_path / "site_urls.py").write_text(SITE_URLS_PY)
    config = str(ROOT / "examples/chat/gunicorn_conf.py")
    command = [sys.executable, "-m", "gunicorn", "--config", config, "--preload"]
    command += ["--bind", f"127.0.0.1:{port}", "site_wsgi"]
    async with backend(command, port, tmp_path, {}) as log:
        await lives(server, "login", port, "/kuiperbelt/receive", log)
    await server.stop()


async def test_rails(servers: Servers, tmp_path: Path) -> None:
    """In a new application of this machine's Rails, under Puma."""
    (controller, routes, push), options = guide("rails")
    made = ["rails", "new", "shop", "--minimal", "--skip-bundle", "--skip-git", "--skip-test"]
    await asyncio.to_thread(subprocess.run, made, cwd=tmp_path, capture_output=True, timeout=60, check=True)
    home = tmp_path / "shop"
    files = {
        "Gemfile": 'gem "rails"\ngem "sqlite3"\ngem "puma"\n',
        "config/boot.rb": 'require "bundler/setup"\n',
        "config/routes.rb": f'Rails.application.routes.draw do\nget "login", to: "login#create"\n{routes}end\n',
        "config/initializers/verify.rb": (ROOT / "examples/verify/verify.rb").read_text(),
        "app/controllers/kuiperbelt_controller.rb": controller,
        "app/models/push.rb": push,
        **LOGIN_RB,
    }
    for name, text in files.items():
        (home / name).write_text(text)
    settings = home / "config/environments/development.rb"
    settings.write_text(re.sub(r"^.*EventedFileUpdateChecker.*\n", "", settings.read_text(), flags=re.MULTILINE))
    port = free_port()
    server = await started(servers, options, port)
    env = {"CALLBACK_KEY": KEY, "PROXY_URL": f"http://127.0.0.1:{server.port}", "BUNDLE_FROZEN": "false"}
    command = ["bin/rails", "server", "--binding", "127.0.0.1", "--port", str(port)]
    async with backend(command, port, home, env) as log:
        await lives(server, "login", port, "/kuiperbelt/receive", log)
        assert "Error" not in said(log)
    await server.stop()
