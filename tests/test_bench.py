"""The bench: a short real run over all systems, whether its figures agree, and its way out. No speed is asserted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from xml.etree import ElementTree

import pytest

from bench import bare, cluster_command, cluster_report, comparison, model, model_command, model_page, report
from bench.__main__ import parse
from bench.comparison import GOALS
from bench.load import percentile
from bench.processes import BenchError, cpu_seconds, memory_kib, stat_fields, tree
from bench.run import Failures, Round, measure, take_turns
from bench.sockets import complete
from bench.systems import SYSTEMS
from bench.work import Plan, Stage, Work
from proxy import keepalive, server
from proxy.conf import Options

ROOT = Path(__file__).parent.parent
SMALL = ["--connections", "20", "--senders", "2", "--keys", "5", "--rounds", "1", "--settle", "0.1", "--rate", "500"]
SHORT = [*SMALL, "--seconds", "0.06", "--warm-up", "0.05", "--memory-connections", "20", "--batch", "10"]
SHORT_CLUSTER = [*SMALL, "--seconds", "0.12", "--warm-up", "0.05", "--idle", "0.1", "--busy-rate", "1000"]
SHORT_CLUSTER += ["--many-senders", "4", "--crowd", "3"]
PEERS = ["kuiperbelt", "nchan", "centrifugo", "pushpin"]
SIDE_BY_SIDE = ["ours-uvicorn", "ours-cluster", "bare-uvicorn"]
CONNECTION_MEASURES = {"connect_cpu_us", "connect_settled_cpu_us", "connects_per_second", "memory_kib"}
SEND_MEASURES = {"cpu_us", "per_second", "p50_ms", "p99_ms", "sent", "delivered"}


def start(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # What a shell starts in the background ignores SIGINT, and so would this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.timeout(120)
def test_a_short_run_is_consistent(tmp_path: Path) -> None:
    """Without any peer it is still a whole report."""
    file, picture = tmp_path / "bench.json", tmp_path / "bench.svg"
    process = start(*SHORT, "--systems", ",".join(SIDE_BY_SIDE), "--json", str(file), "--svg", str(picture))
    output, errors = process.communicate(timeout=110)
    assert process.returncode == 0, errors
    found: dict[str, Any] = json.loads(file.read_text())

    assert found["date"]
    assert found["machine"]["kernel"]
    assert found["machine"]["cores"] == os.cpu_count()
    assert found["versions"]["uvicorn"]
    assert found["plan"]["connections"] == 20
    assert found["notes"]["ours-uvicorn"] == "EKBO_REGISTRY=false"
    assert not found["failures"]
    assert [name for name in SIDE_BY_SIDE if name not in found["absent"]] == list(found["systems"])
    assert all(f"Absent: {name} ({reason})" in output for name, reason in found["absent"].items())
    (only_round,) = found["rounds"]
    assert set(only_round) == set(found["systems"])
    for name, measures in only_round.items():
        kinds = [kind for kind in ("send", "fanout", "paced", "receive") if kind not in SYSTEMS[name].lacks]
        works = [f"{kind}{large}" for kind in kinds for large in ("", "_large")]
        works += [] if "batch" in SYSTEMS[name].lacks else ["batch"]
        expected = {f"{work}_{part}" for work in works for part in SEND_MEASURES}
        assert set(measures) == CONNECTION_MEASURES | {"idle_memory_kib"} | expected
        for work in works:
            assert measures[f"{work}_delivered"] == measures[f"{work}_sent"] > 0
            assert measures[f"{work}_cpu_us"] > 0
            assert 0 < measures[f"{work}_p50_ms"] <= measures[f"{work}_p99_ms"]
        assert measures["fanout_sent"] % 5 == 0
        assert measures["paced_sent"] == 30  # the open loop sends all that is due
        assert 0 < measures["connect_cpu_us"] <= measures["connect_settled_cpu_us"]
        assert name in output
    assert len(found["goals"]) == len(GOALS)
    for goal in found["goals"]:
        measured = {goal["system"], goal["yardstick"]} <= set(found["systems"]) and "median" in goal
        assert (goal["met"] is None) == (not measured)
    assert all(each["median"] > 0 for each in found["ratios"] if each["measure"] == "send_cpu_us")
    ElementTree.fromstring(picture.read_text())


def test_a_peer_that_is_not_installed_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PATH", "GOBIN", "GOPATH"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("HOME", "/nowhere")
    systems, absent = comparison.split([SYSTEMS[name] for name in ("bare-uvicorn", *PEERS)])
    assert [system.name for system in systems] == ["bare-uvicorn"]
    assert "go install" in absent["kuiperbelt"]
    assert "libnginx-mod-nchan" in absent["nchan"]
    assert list(absent) == PEERS


@pytest.mark.timeout(120)
def test_the_other_settings_of_ours_and_the_other_server_can_be_measured(tmp_path: Path) -> None:
    others = [name for name in SYSTEMS if name not in (*SIDE_BY_SIDE, *PEERS)]
    file = tmp_path / "bench.json"
    process = start(
        *SHORT, "--systems", ",".join(others), "--work", "send", "--large", "0", "--rounds", "1", "--json", str(file)
    )
    _, errors = process.communicate(timeout=110)
    assert process.returncode == 0, errors
    found = json.loads(file.read_text())
    assert list(found["systems"]) == others
    assert all(measures["send_cpu_us"]["median"] > 0 for measures in found["systems"].values())


class Failing(Work):
    """A kind of work that can't be done."""

    name = "failing"

    def slice(self, number: int) -> None:
        raise BenchError("no luck")


def test_a_system_that_fails_at_some_work_is_named_and_left_out() -> None:
    stage = cast(Stage, SimpleNamespace(plan=Plan(settle=0)))
    failures: Failures = {}
    works = {"a": Work(stage), "b": Failing(stage)}
    assert take_turns(works, failures) == {"a": {}}
    assert failures == {"b": ["failing: no luck"]}
    with pytest.raises(BenchError, match="no luck"):
        take_turns(works)


@pytest.mark.parametrize("name", ["ours-uvicorn", "nchan", "centrifugo", "pushpin"])
def test_a_push_is_one_request_for_all_its_sessions(name: str) -> None:
    request = SYSTEMS[name].push(["one", "two"], b"text")
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /")
    assert f"Content-Length: {len(body)}".encode() in head
    assert all(key in request for key in (b"one", b"two", b"text"))


def test_a_batch_counts_only_if_each_line_is_answered_with_ok() -> None:
    ours = SYSTEMS["ours-uvicorn"]
    assert b'{"session": "b", "body": "x"}\n' in ours.batch(["a", "b"], b"x")
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    assert ours.accepted(head + b'{"line":1,"result":"OK"}\n{"line":2,"result":"OK"}\n')
    assert not ours.accepted(head + b'{"line":1,"result":"OK"}\n{"line":2,"status":404,"result":"NG"}\n')


@pytest.mark.timeout(120)
def test_a_short_cluster_run_is_consistent(tmp_path: Path) -> None:
    file = tmp_path / "cluster.json"
    process = start("cluster", *SHORT_CLUSTER, "--json", str(file))
    output, errors = process.communicate(timeout=110)
    assert process.returncode == 0, errors
    found: dict[str, Any] = json.loads(file.read_text())

    assert found["versions"]["redis"]
    (only_round,) = found["rounds"]
    assert list(only_round) == ["alone", "local", "remote", "workers", "bare-local", "bare-remote"]
    for name, measures in only_round.items():
        for work in ("send", "paced", "busy", *(() if name.startswith("bare") else ("fanout",))):
            assert measures[f"{work}_delivered"] == measures[f"{work}_sent"] > 0
            assert measures[f"{work}_cpu_us"] >= measures.get(f"{work}_redis_cpu_us", 0)
            assert 0 < measures[f"{work}_p50_ms"] <= measures[f"{work}_p99_ms"]
            shares = [measures[f"{work}_{part}_share"] for part in ("load", "worker1", "worker2", "redis", "idle")]
            assert all(0 <= share < 1.1 for share in shares)
        assert measures["paced_sent"] == 60  # the open loop sends all that is due
        assert measures["busy_sent"] == 120
        assert name in output
    alone, local, remote, workers, bare_local, bare_remote = only_round.values()
    assert alone["send_worker2_share"] == 0 < workers["send_worker2_share"]
    assert "send_redis_cpu_us" not in alone
    assert local["send_publishes"] < 0.1  # but for those that watch the connection
    assert remote["fanout_publishes"] >= 1
    assert remote["send_publishes"] >= 1
    assert bare_local["send_publishes"] == 0
    assert bare_remote["send_publishes"] == pytest.approx(2, abs=0.1)  # a request and a reply, each alone
    assert remote["send_redis_in_bytes"] > 64 < remote["send_redis_out_bytes"]
    assert local["connect_subscribes"] == pytest.approx(1, abs=0.1)
    assert abs(local["redis_session_bytes"]) < 5000  # with few sessions it drowns in what else Redis does
    assert workers["full_bound_per_second"] > workers["full_per_second"] > 0
    assert 0 < remote["crowd_redis_cpu_us"] < 1000
    assert [ratio["goal"] for ratio in found["ratios"] if ratio["goal"]] == [3.0, 3.0, 3.0, 1.2, 1.4]

    for kind in ("paced", "busy", "send"):
        estimate = model.estimate(model.coefficients(found, kind), model.Target())
        assert estimate.nodes >= 2
    assert model_page.markdown(found, model.Target()).count("|") > 100


def test_ctrl_c_ends_all_that_was_started() -> None:
    process = start(*SHORT, "--seconds", "30", "--systems", "bare-uvicorn")
    deadline = time.monotonic() + 20
    while len(family := tree(process.pid)) < 4:  # itself, backend, server, load
        assert time.monotonic() < deadline, family
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=35)
    assert process.returncode == 130
    assert errors.endswith("bench: interrupted\n")
    assert not [pid for pid in family if stat_fields(pid)]


def test_a_server_that_does_not_start_is_an_error_with_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    system = SYSTEMS["bare-uvicorn"]
    monkeypatch.setattr(system, "command", lambda on, port: [sys.executable, "-c", "raise SystemExit('no luck')"])
    with pytest.raises(BenchError, match="no luck") as error:
        measure([system], Plan())
    assert f"{Path(sys.executable).name} -c raise" in str(error.value)
    assert sys.executable not in str(error.value)  # it gets into docs/performance.json


def test_bare_uvicorn_has_the_settings_of_ours() -> None:
    """All but the application, its address, and the protocol classes that are the proxy's own work."""
    ours = vars(server.uvicorn_config(bare.application, Options(connect_callback="http://127.0.0.1:9/")))
    bares = vars(bare.config(9180))
    assert bares["http"] == "httptools"
    assert bares["ws"] == "websockets-sansio"
    assert bares["ws_ping_interval"] == bares["ws_ping_timeout"] == keepalive.INTERVAL
    assert not bares["ws_per_message_deflate"]  # nor does our protocol class offer it
    own = {"host", "port", "http", "ws", "ws_ping_interval", "ws_ping_timeout", "ws_per_message_deflate"}
    assert {name: value for name, value in bares.items() if name not in own} == {
        name: value for name, value in ours.items() if name not in own
    }


def test_cpu_and_memory_of_this_process() -> None:
    before = cpu_seconds(os.getpid())
    sum(range(3_000_000))
    assert 0 < cpu_seconds(os.getpid()) - before < 10
    assert memory_kib(os.getpid()) > 1000


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nO", False),
        (b"HTTP/1.1 200 OK\r\ncontent-le", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nOK\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nOK\r\n0\r\n\r\n", True),
    ],
)
def test_complete_responses(response: bytes, expected: bool) -> None:
    assert complete(response) is expected


def test_percentiles_are_of_the_nearest_rank() -> None:
    assert percentile([1, 2, 3, 4], 50) == 2
    assert percentile([1, 2, 3, 4], 99) == 4
    assert percentile([7], 50) == 7


def met(ratio: report.Ratio, rounds: list[Round]) -> bool | None:
    found = report.compare(ratio, rounds)
    assert found
    return cast(bool | None, found["met"])


def test_ratios_are_of_one_round_each_and_their_median_decides() -> None:
    rounds = [{"a": {"x": value}, "b": {"x": 1.0}} for value in (1.0, 3.0, 2.0)]
    found = report.compare(report.Ratio("a", "b", "x", 2.0), rounds)
    assert found
    assert (found["min"], found["median"], found["max"], found["met"]) == (1.0, 2.0, 3.0, True)
    assert met(report.Ratio("a", "b", "x", 1.9), rounds) is False
    assert met(report.Ratio("a", "b", "x"), rounds) is None
    assert report.compare(report.Ratio("a", "nobody", "x"), rounds) is None


def test_a_ratio_may_have_to_be_reached() -> None:
    rounds = [{"a": {"x": 1.2}, "b": {"x": 1.0}}]
    assert met(report.Ratio("a", "b", "x", 1.2, at_least=True), rounds) is True
    assert met(report.Ratio("a", "b", "x", 1.3, at_least=True), rounds) is False


COST = model.Coefficients(
    local=50,
    remote=100,
    connect=300,
    close=60,
    ping=20,
    redis_send=10,
    redis_connect=15,
    redis_close=3,
    process=32e6,
    connection=10e3,
    redis_session=300,
    request=200,
    response=134,
    frame=66,
    redis_in=400,
    redis_out=500,
)


def test_the_model_by_hand() -> None:
    found = model.estimate(COST, model.Target(connections=600_000, sends=50_000, lifetime=600, cores_per_node=4))
    # 1,000 connects and 30,000 pings per second. With W workers 50,000 sends take 5 - 2.5 / W cores.
    assert found.connect_cores == pytest.approx(0.36)
    assert found.ping_cores == pytest.approx(0.6)
    assert found.processes == 10  # 5.71 cores where 6 are 60 %; with 9, 5.68 where 5.4 are
    assert found.nodes == 4  # three full ones and the spare one
    assert found.remote_share == pytest.approx(15 / 16)
    assert found.send_cores == pytest.approx(5 - 2.5 / 16)
    assert found.sends_per_worker == 3125
    assert found.load == pytest.approx(found.cores / 16)
    assert found.redis_cores == pytest.approx(50_000 * 15 / 16 * 10e-6 + 0.018)
    assert found.shards == 1
    assert found.redis_memory == 180e6
    assert found.process_memory == 32e6 + 37_500 * 10e3
    assert found.node_memory == 4 * found.process_memory + 150_000 * model.SOCKET
    assert found.client_bits == (50_000 * (66 + 66) + 30_000 * (2 + 66)) * 8
    assert found.backend_bits == 50_000 * (200 + 66) * 8
    assert found.redis_in_bits == 46_875 * 400 * 8
    assert found.redis_out_bits == 46_875 * 500 * 8
    assert found.node_bits == (found.client_bits + 50_000 * 200 * 8 + found.redis_in_bits) / 4
    assert found.takeover_seconds == pytest.approx(150_000 * 300e-6 / (12 - found.cores))


def test_the_model_of_one_process_has_no_remote_sends() -> None:
    found = model.estimate(COST, model.Target(connections=100, sends=100, cores_per_node=1, spare_nodes=0))
    assert (found.processes, found.nodes, found.shards, found.remote_share) == (1, 1, 1, 0)
    assert found.send_cores == pytest.approx(100 * 50e-6)
    assert found.takeover_seconds == float("inf")


def test_what_fills_first() -> None:
    target = model.Target(connections=600_000, sends=50_000, lifetime=600, cores_per_node=4, link_bits=8e9)
    found = model.estimate(COST, target)
    ceilings = model.ceilings(COST, target, found)
    assert ceilings["the workers"] == pytest.approx((16 - 0.96) / (100 - 50 / 16) * 1e6)
    assert ceilings["the Redis shards"] == pytest.approx((1 - 0.018) / (10e-6 * 15 / 16))
    assert ceilings["the Redis shards' links"] == pytest.approx(1e9 / 500 * 16 / 15)
    assert ceilings["the nodes' links"] == pytest.approx(32e9 / (found.node_bits * 4 / 50_000))
    assert min(ceilings, key=ceilings.__getitem__) == "the Redis shards"


def test_the_model_s_limits() -> None:
    assert model.limits(COST, model.Target(link_bits=8e9)) == {
        "one core of the proxies": pytest.approx(10_000),
        "one Redis (one core)": pytest.approx(100_000),
        "one Redis' link": 2e6,
        "one node's link to the clients": pytest.approx(1e9 / 132),
    }


@pytest.mark.parametrize(
    ("payload", "expected"), [(64, 66), (125, 127), (126, 130), (65_535, 65_539), (65_536, 65_546)]
)
def test_frame_sizes(payload: int, expected: int) -> None:
    assert model.frame_size(payload) == expected


def test_the_scaling_page_is_what_the_model_makes_of_the_last_result() -> None:
    result = json.loads(model_command.RESULT.read_text())
    assert model_page.markdown(result, model.Target()) in model_command.PAGE.read_text()
    date = result["date"][:10]
    page = (ROOT / "docs" / "performance.md").read_text()
    assert date in page[page.index(cluster_report.BEGIN) : page.index(cluster_report.END)]


def test_the_scaling_page_names_every_coefficient() -> None:
    page = model_command.PAGE.read_text()
    formulas = page[page.index("## The formulas") : page.index("## The figures")]
    assert all(f"`{name}`" in formulas for name in vars(COST))


def test_tables_go_between_the_markers(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{comparison.BEGIN}\nold\n{comparison.END}\nafter\n")
    report.write_between_markers(page, "new\n", comparison.BEGIN, comparison.END)
    assert page.read_text() == f"before\n{comparison.BEGIN}\nnew\n{comparison.END}\nafter\n"
    page.write_text("no markers\n")
    with pytest.raises(BenchError, match="expected the lines"):
        report.write_between_markers(page, "new\n", comparison.BEGIN, comparison.END)
    assert page.read_text() == "no markers\n"


def test_the_page_has_the_markers() -> None:
    text = (ROOT / "docs" / "performance.md").read_text()
    assert 0 < text.find(comparison.BEGIN) < text.find(comparison.END)


@pytest.mark.parametrize("arguments", [["--systems", "nobody"], ["--size", "5"], ["--rounds", "0"], ["--senders", "x"]])
def test_bad_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(arguments)
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--busy-rate", "0"], ["--size", "5"], ["--workers", "none"]])
def test_bad_arguments_of_the_cluster(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cluster_command.parse(arguments)
    assert caught.value.code == 2
    assert f"{arguments[0]}: expected" in capsys.readouterr().err or arguments[0] == "--workers"


def test_bad_arguments_of_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        model_command.parse(["--sends", "0"])
    assert "--sends: expected more than 0" in capsys.readouterr().err
