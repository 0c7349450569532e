"""The configuration: YAML, environment, defaults, and one report for everything that is wrong."""

import re
import tempfile
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import conf

CONNECT = {"EKBO_CONNECT_CALLBACK_URL": "http://backend/connect"}


def load_yaml(tmp_path: Path, text: str, **environ: str) -> tuple[conf.Options, list[conf.Problem]]:
    file = tmp_path / "config.yml"
    file.write_text(text)
    return conf.load({"EKBO_CONFIG": str(file), **environ})


def test_defaults() -> None:
    options, problems = conf.load(CONNECT)
    assert not problems
    assert (options.port, options.callback_timeout, options.session_header) == (9180, 10.0, "X-Kuiperbelt-Session")
    assert (options.send_timeout, options.send_queue_size, options.idle_timeout) == (0.0, 0, 0.0)
    assert options.origin_policy.name == "none"
    assert not options.strict_broadcast


def test_kuiperbelts_own_file(tmp_path: Path) -> None:
    options, problems = load_yaml(
        tmp_path,
        """
        port: 12345 # listen to the port
        sock: ""
        callback:
          connect: "http://localhost:12346/connect"
          establish: "http://localhost:12346/establish"
          close: "http://localhost:12346/close"
          receive: "http://localhost:12346/receive"
          timeout: 10s
        suppress_access_log: false
        session_header: "X-Kuiperbelt-Session"
        endpoint: "localhost:12345"
        proxy_set_header:
          "X-Foo": "Foo"
          "X-Bar": ""
        send_timeout: 0
        send_queue_size: 0
        origin_policy: none
        idle_timeout: 0
        """,
    )
    assert not problems
    assert options.port == 12345
    assert options.close_callback == "http://localhost:12346/close"
    assert options.proxy_set_header == (("X-Foo", "Foo"), ("X-Bar", ""))


def test_templates(tmp_path: Path) -> None:
    options, problems = load_yaml(
        tmp_path,
        """
        port: {{ env "MY_PORT" "OTHER_PORT" "9181" }}
        callback:
          connect: {{ must_env "AUTH" }}
          close: {{ env "CLOSE" "" }}
        idle_timeout: {{ env "IDLE" "1m" }}
        endpoint: {{env `UNSET` `node.example`}}
        """,
        AUTH="http://backend/auth",
        OTHER_PORT="9999",
        IDLE="",
    )
    assert not problems
    assert (options.port, options.connect_callback, options.close_callback) == (9999, "http://backend/auth", "")
    assert (options.idle_timeout, options.endpoint) == (60.0, "node.example")


def test_environment_wins_over_the_file_and_empty_is_not_set(tmp_path: Path) -> None:
    text = "callback: {connect: 'http://file/'}\nport: 1\nidle_timeout: 5s"
    options, problems = load_yaml(tmp_path, text, EKBO_PORT="2", EKBO_IDLE_TIMEOUT="")
    assert not problems
    assert (options.port, options.idle_timeout, options.connect_callback) == (2, 5.0, "http://file/")


def test_all_errors_in_one_report(tmp_path: Path) -> None:
    _, problems = load_yaml(
        tmp_path,
        """
        port: many
        callback: {timeout: 10, receive: backend, conect: x}
        path: {send: /x, close: /x}
        idle_timout: 5s
        origin_policy: same_site
        endpoint: {{ must_env "NOWHERE" }}
        """,
        EKBO_SEND_TIMEOUT="soon",
    )
    report = conf.report(problems)
    for expected in (
        "port: expected a port from 0 to 65535, found 'many'",
        "callback.timeout: expected a duration like 0, 500ms, 10s or 1m30s, found '10'",
        "callback.receive: expected a URL like http://backend:8000/connect, without user",
        "callback.conect: expected a known option, like callback.connect, found this key",
        "idle_timout: expected a known option, like idle_timeout, found this key",
        "origin_policy: expected none, same_origin, same_hostname, or a list of origins",
        "EKBO_SEND_TIMEOUT: expected a duration like 0, 500ms, 10s or 1m30s, found 'soon'",
        "expected the environment variable NOWHERE (must_env), found nothing",
        "callback.connect (EKBO_CONNECT_CALLBACK_URL): expected the backend's auth URL, found nothing",
        "path.send, path.close: expected different paths, found /x, /x",
    ):
        assert expected in report
    assert "10 problem(s)" in report


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [", "YAML"),
        ("- 1", "a mapping of options"),
        ("port: {{ env }}", '{{ env "NAME" "default" }}'),
        ("port: {{ nonsense 1 }}", '{{ env "NAME" "default" }}'),
        ("callback: http://backend/", "its own options below it"),
        ("path: [/x]", "its own options below it"),
        ("port: 1\ncallback: {}\nport: 2", "YAML"),
        ("callback: {close: 'http://a', close: 'http://b'}", "YAML"),
        ("{[a]: b, [a]: c}", "YAML"),
        ("1: 2", "a known option"),
        ("endpoint: {a: b}", "text"),
        ("port: !!int abc", "a port"),
        ("[" * 5000, "a readable YAML file"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, expected: str) -> None:
    _, problems = load_yaml(tmp_path, text, **CONNECT)
    assert any(problem.expected.startswith(expected) for problem in problems)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('api_keys:\n- "hunter2-0123456789', "while scanning a quoted scalar found unexpected end of stream in line 2"),
        ("api_keys: hunter2-0123456789: x", "mapping values are not allowed here in line 1, column 29"),
        ("api_keys: *hunter2", "found undefined alias something in line 1, column 11"),
        ("api_keys: !hunter2!x abc", "something"),
        ("api_keys: hunter2", "a value that isn't shown"),
        ("log:\n\tlevel: hunter2", "found character tab that cannot start any token in line 2, column 1"),
        ("{hunter2: a, hunter2: b}", "the same key again in line 1, column 14"),
        ("secret_key: hunter2", "a value that isn't shown"),
        ("redis: {url: 'ftp://:hunter2@host'}", "a value that isn't shown"),
        ("database_url: mysql://user:hunter2@host/db", "a value that isn't shown"),
        ('proxy_set_header: {Authorization: "Bearer hunter2\\x01"}', "a value that isn't shown"),
        ("callback: {connect: 'https://hunter2:hunter2@host/'}", "'https://…@host/'"),
    ],
)
def test_a_report_shows_no_secret(tmp_path: Path, text: str, found: str) -> None:
    _, problems = load_yaml(tmp_path, text)
    assert any(found in problem.found for problem in problems), problems
    assert "hunter2" not in conf.report(problems)


def test_no_such_file() -> None:
    _, problems = conf.load({"EKBO_CONFIG": "/nowhere/config.yml", **CONNECT})
    assert "No such file" in problems[0].found


def test_port_and_sock_together() -> None:
    _, problems = conf.load({**CONNECT, "EKBO_PORT": "1", "EKBO_UNIX_DOMAIN_SOCKET_FILENAME": "/tmp/x.sock"})
    assert [problem.where for problem in problems] == ["port, sock"]


def test_keys_are_not_in_the_report() -> None:
    _, problems = conf.load({**CONNECT, "EKBO_API_KEYS": "tooshort"})
    assert len(problems) == 1
    assert "tooshort" not in conf.report(problems)


def test_unknown_variables() -> None:
    environ = {**CONNECT, "EKBO_CONFIG": "x", "EKBO_CALLBAK_TIMEOUT": "1s", "HOME": "/"}
    assert conf.unknown_variables(environ) == ["EKBO_CALLBAK_TIMEOUT"]
    said = conf.unread("EKBO_CALLBAK_TIMEOUT")
    assert said == "EKBO_CALLBAK_TIMEOUT: no option reads this variable; EKBO_CALLBACK_TIMEOUT is one"


def test_the_file_and_the_variables_that_the_docs_show(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs/options.md").read_text()
    (text,) = re.findall("^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    by_file, problems = load_yaml(tmp_path, text, BACKEND_SECRET="abc")
    assert not problems
    variables = {name: value.strip("'") for name, value in re.findall("^`(EKBO_[A-Z_]+)=([^`]*)`", page, re.MULTILINE)}
    by_variables, problems = conf.load({**CONNECT, **variables})
    assert not problems
    assert by_variables.origin_policy == by_file.origin_policy
    assert by_variables.proxy_set_header == (*by_file.proxy_set_header, ("X-Debug", ""))


def test_redis(tmp_path: Path) -> None:
    options, problems = load_yaml(tmp_path, "redis:\n  url: redis://a\n  prefix: chat", **CONNECT)
    assert not problems
    assert (options.redis_url, options.redis_prefix, options.reply_timeout) == (("redis://a",), "chat", 1.0)


@pytest.mark.parametrize(
    ("environ", "where"),
    [
        ({"EKBO_REDIS_SENTINELS": "a:26379"}, "redis.sentinels, redis.master"),
        ({"EKBO_REDIS_MASTER": "main"}, "redis.sentinels, redis.master"),
        (
            {
                "EKBO_REDIS_SENTINELS": "a",
                "EKBO_REDIS_MASTER": "main",
                "EKBO_REDIS_URL": "redis://:p@a,redis://:p@b",
            },
            "redis.url",
        ),
        ({"EKBO_REDIS_URL": "redis://:hunter2@a/x"}, "EKBO_REDIS_URL"),
    ],
)
def test_redis_refused(environ: dict[str, str], where: str) -> None:
    _, problems = conf.load(CONNECT | environ)
    assert [problem.where for problem in problems] == [where]
    assert "hunter2" not in conf.report(problems)


def test_keys_from_a_file_are_api_keys(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("of-the-file-0123456\n")
    options, problems = conf.load(CONNECT | {"EKBO_API_KEYS": "of-the-variable-0", "EKBO_API_KEYS_FILE": str(keys)})
    assert not problems
    assert options.api_keys == ("of-the-variable-0", "of-the-file-0123456")
    options, (problem,) = conf.load(CONNECT | {"EKBO_API_KEYS_FILE": str(tmp_path)})
    assert (problem.where, problem.found) == ("EKBO_API_KEYS_FILE", repr(str(tmp_path)))


def test_two_places_for_the_api_are_a_conflict() -> None:
    _, (problem,) = conf.load(CONNECT | {"EKBO_API_PORT": "0", "EKBO_API_SOCK": "s"})
    assert problem.where == "api_port, api_sock"


@pytest.mark.parametrize(
    "text",
    [
        'port: "\\UFFFFFFFF"',
        'port: "\\U00110000"',
        '"\\uD800": 1',
        'callback: {"\\uD800": 1}',
        '"a\\nb\\e[31m": 1',
        "[" * 5000,
        "port: \x00",
        "? [a]\n: b",
        "a: &x {<<: *x}",
    ],
)
def test_yaml_that_nothing_can_be_made_of(tmp_path: Path, text: str) -> None:
    _, problems = load_yaml(tmp_path, text, **CONNECT)
    assert problems
    assert_readable(conf.report(problems))


def assert_readable(report: str) -> None:
    """It can be printed, and nothing in it moves a cursor."""
    assert report.encode()
    assert all(line.isprintable() for line in report.splitlines())


YAML_PIECES = [
    *(spec.metadata["key"].rpartition(".")[2] for spec in fields(conf.Options)),
    *(
        "path: ",
        "callback: ",
        "redis: ",
        "{{ env ",
        "{{ must_env ",
        "}}",
        '"A"',
        "http://backend/x",
        "10s",
        "~",
        "1" * 400,
    ),
    *(
        ": ",
        "- ",
        "\n",
        "\n  ",
        "{",
        "}",
        "[",
        "]",
        ",",
        "&a ",
        "*a",
        "!!int ",
        "! ",
        "|",
        ">",
        "'",
        '"',
        "\\",
        "\\U",
        "\\x",
    ),
    *("%YAML 1.2\n", "---\n", "...\n", "#", "<<: ", "? ", "\t", "\ufeff", "\u2028", "\u0663"),
]


@given(st.lists(st.sampled_from(YAML_PIECES) | st.text(max_size=5) | st.integers().map(str), max_size=25).map("".join))
def test_any_yaml_is_a_configuration_or_a_report(text: str) -> None:
    """Never a traceback."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(text)
        file.flush()
        options, problems = conf.load({"EKBO_CONFIG": file.name, **CONNECT})
    assert isinstance(options, conf.Options)
    assert_readable(conf.report(problems))
