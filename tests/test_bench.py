"""The bench: a short real run over all systems, whether its figures agree, and its way out. No speed is asserted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench import bare, report
from bench.__main__ import parse
from bench.load import percentile
from bench.processes import BenchError, cpu_seconds, memory_kib, stat_fields, tree
from bench.run import measure
from bench.sockets import complete
from bench.systems import SYSTEMS
from bench.work import Plan
from proxy import keepalive, server
from proxy.conf import Options

ROOT = Path(__file__).parent.parent
SHORT = ["--connections", "20", "--senders", "2", "--keys", "5", "--rounds", "1", "--seconds", "0.6", "--settle", "0.1"]
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
    )


def test_a_short_run_is_consistent(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    process = start(*SHORT, "--json", str(file))
    output, errors = process.communicate(timeout=50)
    assert process.returncode == 0, errors
    found: dict[str, Any] = json.loads(file.read_text())

    assert found["date"]
    assert found["machine"]["kernel"]
    assert found["machine"]["cores"] == os.cpu_count()
    assert found["versions"]["uvicorn"]
    assert found["plan"]["connections"] == 20
    assert found["notes"]["ours-uvicorn"] == "EKBO_SUPPRESS_ACCESS_LOG=true"
    (only_round,) = found["rounds"]
    assert set(only_round) == set(found["systems"]) == set(SYSTEMS)
    for name, measures in only_round.items():
        expected = CONNECTION_MEASURES | {f"{work}_{part}" for work in ("send", "fanout") for part in SEND_MEASURES}
        assert set(measures) == expected
        for work in ("send", "fanout"):
            assert measures[f"{work}_delivered"] == measures[f"{work}_sent"] > 0
            assert measures[f"{work}_cpu_us"] > 0
            assert 0 < measures[f"{work}_p50_ms"] <= measures[f"{work}_p99_ms"]
        assert measures["fanout_sent"] % 5 == 0
        assert 0 < measures["connect_cpu_us"] <= measures["connect_settled_cpu_us"]
        assert name in output
    assert [ratio["goal"] for ratio in found["ratios"] if ratio["goal"]] == [2.2, 1.5, 1.6, 1.3, 1.6]
    for ratio in found["ratios"]:
        assert (ratio["met"] is None) == (ratio["goal"] is None)
    assert "EKBO_SUPPRESS_ACCESS_LOG=true" in output


def test_ctrl_c_ends_all_that_was_started() -> None:
    process = start(*SHORT, "--seconds", "30", "--systems", "bare-uvicorn")
    deadline = time.monotonic() + 20
    while len(family := tree(process.pid)) < 4:  # itself, backend, server, load
        assert time.monotonic() < deadline, family
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors.endswith("bench: interrupted\n")
    assert not [pid for pid in family if stat_fields(pid)]


def test_a_server_that_does_not_start_is_an_error_with_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    system = SYSTEMS["bare-uvicorn"]
    monkeypatch.setattr(system, "command", lambda port: [sys.executable, "-c", "raise SystemExit('no luck')"])
    with pytest.raises(BenchError, match="no luck"):
        measure([system], Plan())


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


def test_ratios_are_of_one_round_each_and_their_median_decides() -> None:
    rounds = [{"a": {"x": value}, "b": {"x": 1.0}} for value in (1.0, 3.0, 2.0)]
    found = report.compare(report.Ratio("a", "b", "x", 2.0), rounds)
    assert (found["min"], found["median"], found["max"], found["met"]) == (1.0, 2.0, 3.0, True)
    assert report.compare(report.Ratio("a", "b", "x", 1.9), rounds)["met"] is False
    assert report.compare(report.Ratio("a", "b", "x"), rounds)["met"] is None


def test_tables_go_between_the_markers(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.write_between_markers(page, "new\n")
    assert page.read_text() == f"before\n{report.BEGIN}\nnew\n{report.END}\nafter\n"
    page.write_text("no markers\n")
    with pytest.raises(BenchError, match="expected the lines"):
        report.write_between_markers(page, "new\n")
    assert page.read_text() == "no markers\n"


def test_the_page_has_the_markers() -> None:
    text = (ROOT / "docs" / "performance.md").read_text()
    assert 0 < text.find(report.BEGIN) < text.find(report.END)


@pytest.mark.parametrize("arguments", [["--systems", "nobody"], ["--size", "5"], ["--rounds", "0"], ["--senders", "x"]])
def test_bad_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(arguments)
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err
