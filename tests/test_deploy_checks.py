"""`manage.py check --deploy`: nothing about what docs/deployment.md sets, one warning for each thing made unsafe."""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import CheckMessage
from django.test import override_settings

from proxy import conf
from proxy.deploy_checks import check_deployment
from tests.certificates import Certificate
from tests.operators import manage

PAGE = (Path(__file__).parent.parent / "docs/deployment.md").read_text()
(BLOCK,) = [block for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if "check --deploy" in block]
AS_THEY_STAND = dict(re.findall(r"^export (\w+)=(\S+)$", BLOCK, re.MULTILINE))
DOCUMENTED = {
    name: re.sub("API_KEY|SECRET_KEY|SIGNING_KEY|PASSWORD", lambda _: secrets.token_hex(32), value)
    for name, value in AS_THEY_STAND.items()
}


@pytest.fixture(autouse=True)
def no_files(tmp_path: Path) -> Iterator[None]:
    """Those of this checkout play no part."""
    with override_settings(SECRET_KEY_FILE=tmp_path / "none", SQLITE_FILE="", KUIPERBELT_CONFIG_FILE=""):
        yield


def found(**changes: str) -> list[CheckMessage]:
    options, problems = conf.load(DOCUMENTED | changes)
    assert not problems
    with override_settings(KUIPERBELT=options):
        return check_deployment(None)


async def test_the_documented_settings(tmp_path: Path) -> None:
    """As they stand there, Django's own checks too."""
    assert len(DOCUMENTED) == BLOCK.count("export ") == 12
    database = {"EKBO_DATABASE_URL": f"sqlite:///{tmp_path}/k.sqlite3"}
    done = await manage("check", "--deploy", "--fail-level=WARNING", env=DOCUMENTED | database)
    assert (done.status, done.errors) == (0, "")
    assert done.output.startswith("System check identified no issues (")
    assert found() == []


async def test_nobody_runs_with_the_documented_keys() -> None:
    done = await manage("check", "--deploy", env=AS_THEY_STAND)
    assert done.status == 1
    for name in ("EKBO_API_KEYS", "EKBO_SECRET_KEY"):
        assert f"{name}: expected" in done.errors


@pytest.mark.parametrize(
    ("changes", "number", "said"),
    [
        ({"EKBO_ORIGIN_POLICY": ""}, 10, "origin_policy (EKBO_ORIGIN_POLICY): expected the origins of your pages"),
        ({"EKBO_TRUSTED_PROXIES": ""}, 11, "tls_cert, trusted_proxies: expected TLS here or at a proxy in front"),
        ({"EKBO_TRUSTED_PROXIES": "0.0.0.0/0"}, 12, "found 0.0.0.0/0"),
        ({"EKBO_TRUSTED_PROXIES": "::/0"}, 12, "found ::/0"),
        ({"EKBO_API_KEYS": "", "EKBO_API_PORT": ""}, 13, "api_keys (EKBO_API_KEYS): expected keys"),
        ({"EKBO_API_ALLOW": "10.0.0.0/8 0.0.0.0/0"}, 14, "expected private networks, found 0.0.0.0/0"),
        ({"EKBO_API_ALLOW": "8.8.8.8"}, 14, "found 8.8.8.8/32"),
        ({"EKBO_API_ALLOW": "::/0"}, 14, "found ::/0"),
        ({"EKBO_API_HOST": "0.0.0.0"}, 15, "found 0.0.0.0"),
        ({"EKBO_API_HOST": "::"}, 15, "found ::"),
        ({"EKBO_API_HOST": "8.8.8.8"}, 15, "found 8.8.8.8"),
        *(
            (
                {f"EKBO_{name.upper()}_CALLBACK_URL": "http://10.0.0.5:8000/"},
                16,
                f"callback.{name} (EKBO_{name.upper()}_",
            )
            for name in ("connect", "establish", "receive", "close")
        ),
        ({"EKBO_SECRET_KEY": ""}, 17, "secret_key (EKBO_SECRET_KEY): expected the same one on all machines"),
        ({"EKBO_REDIS_URL": "rediss://user@redis.example.com"}, 18, "found none for redis.example.com"),
        ({"EKBO_ADMIN_ORIGINS": "https://a.example http://b.example"}, 19, "expected https, found http://b.example"),
        ({"EKBO_API_KEYS": secrets.token_hex(32) + ",abababababababababab"}, 20, "one of few different characters"),
        ({"EKBO_REGISTRY_QUERY": "true"}, 21, "registry_query (EKBO_REGISTRY_QUERY): expected false"),
        ({"EKBO_WATCH_CONTENTS": "true"}, 26, "watch_contents (EKBO_WATCH_CONTENTS): expected false"),
        ({"EKBO_CALLBACK_TIMEOUT": "0"}, 23, "callback.timeout (EKBO_CALLBACK_TIMEOUT): expected a limit"),
        ({"EKBO_CALLBACK_SIGNING_KEYS": ""}, 25, "callback.signing_keys (EKBO_CALLBACK_SIGNING_KEYS): expected a key"),
        ({"EKBO_REDIS_URL": "rediss://:x@r.example?ssl_cert_reqs=none"}, 24, "found any for r.example"),
        ({"EKBO_REDIS_URL": "rediss://:x@r.example?ssl_check_hostname=False"}, 24, "found any for r.example"),
    ],
)
def test_what_is_unsafe(changes: dict[str, str], number: int, said: str) -> None:
    (warning,) = found(**changes)
    assert warning.id == f"proxy.W{number:03}"
    assert said in warning.msg
    assert warning.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"EKBO_TRUSTED_PROXIES": "", "EKBO_UNIX_DOMAIN_SOCKET_FILENAME": "proxy.sock"},
        {"EKBO_API_KEYS": "", "EKBO_API_PORT": "", "EKBO_API_SOCK": "api.sock"},
        {"EKBO_API_KEYS": ""},
        {"EKBO_API_ALLOW": "192.168.1.0/24 fd00::/8 127.0.0.1"},
        {"EKBO_API_PORT": "", "EKBO_API_HOST": "0.0.0.0"},
        {"EKBO_API_HOST": "node1.internal"},
        {"EKBO_CONNECT_CALLBACK_URL": "http://127.0.0.1:8000/", "EKBO_CLOSE_CALLBACK_URL": "http://localhost/close"},
        {"EKBO_CALLBACK_SIGNING_KEYS": "", "EKBO_PROXY_SET_HEADER": "{X-Secret: of-the-proxy}"},
        {"EKBO_REDIS_URL": "redis://127.0.0.1"},
        {"EKBO_REDIS_URL": "", "EKBO_SECRET_KEY": ""},
        {"EKBO_ADMIN_ORIGINS": ""},
    ],
)
def test_what_is_safe_too(changes: dict[str, str]) -> None:
    assert found(**changes) == []


def test_files_that_others_can_read(tmp_path: Path) -> None:
    certificate = Certificate(tmp_path)
    kept, keys, database = tmp_path / "kept.key", tmp_path / "api-keys", tmp_path / "kept.sqlite3"
    kept.write_text("k" * 50)
    keys.write_text(secrets.token_hex(32))
    database.touch()
    changes: dict[str, Any] = {"EKBO_REDIS_URL": "", "EKBO_SECRET_KEY": "", "EKBO_API_KEYS_FILE": str(keys)}
    with override_settings(SECRET_KEY_FILE=kept, SQLITE_FILE=str(database)):
        for mode, named in ((0o640, []), (0o644, [kept, certificate.key, keys, database])):
            for path in (kept, certificate.key, keys, database):
                path.chmod(mode)
            hints = [(warning.id, warning.hint) for warning in found(**changes, **certificate.env)]
            assert hints == [("proxy.W022", f"chmod 600 {path}") for path in named]


@pytest.mark.parametrize(
    ("text", "unsafe"),
    [
        ("api_keys: [a-key-0123456789abcdef]", True),
        ("secret_key: a-key-0123456789abcdef-a-key-0123456789abcdef", True),
        ("redis: {url: 'redis://:password@127.0.0.1'}", True),
        ("proxy_set_header: {Authorization: Basic abc}", True),
        ("api_keys: ['{{ must_env \"EKBO_TEST_KEY\" }}']\nredis: {url: 'redis://127.0.0.1'}", False),
        ("idle_timeout: 5s", False),
    ],
)
def test_a_configuration_file_that_others_can_read(tmp_path: Path, text: str, unsafe: bool) -> None:
    config = tmp_path / "config.yml"
    config.write_text(text)
    config.chmod(0o644)
    with override_settings(KUIPERBELT_CONFIG_FILE=str(config)):
        assert [warning.id for warning in found()] == ["proxy.W022"] * unsafe
        config.chmod(0o600)
        assert found() == []


async def test_the_default_settings(tmp_path: Path) -> None:
    """What an operator sees who has changed nothing."""
    env = {
        "EKBO_CONNECT_CALLBACK_URL": "http://10.0.0.5/connect",
        "EKBO_DATABASE_URL": f"sqlite:///{tmp_path}/k.sqlite3",
    }
    done = await manage("check", "--deploy", env=env)
    assert done.status == 0
    assert re.findall(r"\((\w+\.W\d+)\)", done.errors) == [f"proxy.W{number:03}" for number in (10, 11, 13, 16, 25)]
    assert sys.executable not in done.errors
