"""What is printed: medians and spreads, ratios with their goals, the machine; as Markdown and as JSON."""

import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from .processes import BenchError
from .run import Round
from .systems import System
from .work import Plan

BEGIN = "<!-- bench: begin -->"
END = "<!-- bench: end -->"
PACKAGES = ["Django", "channels", "uvicorn", "daphne", "uvloop", "httptools", "websockets", "autobahn", "aiohttp"]

Titles = Mapping[str, tuple[str, str]]  # measure -> its title, in which a Plan's fields may stand, and its unit

MEASURES = {
    "send_cpu_us": ("CPU per message, one key per `/send`", "us"),
    "fanout_cpu_us": ("CPU per message, {keys} keys per `/send`", "us"),
    "connect_cpu_us": ("CPU per connect, first to last open", "us"),
    "connect_settled_cpu_us": ("CPU per connect, work up to {settle:g} s later included", "us"),
    "memory_kib": ("memory per connection (PSS)", "KiB"),
    "connects_per_second": ("connects", "1/s"),
    "send_per_second": ("messages, one key per `/send`", "1/s"),
    "send_p50_ms": ("latency p50, one key per `/send`", "ms"),
    "send_p99_ms": ("latency p99, one key per `/send`", "ms"),
    "fanout_per_second": ("messages, {keys} keys per `/send`", "1/s"),
    "fanout_p50_ms": ("latency p50, {keys} keys per `/send`", "ms"),
    "fanout_p99_ms": ("latency p99, {keys} keys per `/send`", "ms"),
}


@dataclass(frozen=True)
class Ratio:
    """A measure of one system over that of another in the same round.

    `goal` is the most it may be, or with `at_least` the least; None: no goal.
    """

    system: str
    yardstick: str
    measure: str
    goal: float | None = None
    at_least: bool = False


RATIOS = [
    Ratio("ours-uvicorn", "bare-uvicorn", "send_cpu_us", 2.2),
    Ratio("ours-uvicorn", "bare-uvicorn", "fanout_cpu_us", 1.5),
    Ratio("ours-uvicorn", "bare-uvicorn", "connect_cpu_us", 1.6),
    Ratio("ours-uvicorn", "bare-uvicorn", "connect_settled_cpu_us"),
    Ratio("ours-uvicorn", "bare-uvicorn", "memory_kib", 1.3),
    Ratio("ours-registry", "ours-uvicorn", "connect_cpu_us", 1.25),
    Ratio("ours-registry", "ours-uvicorn", "send_cpu_us", 1.02),
    Ratio("ours-daphne", "bare-daphne", "send_cpu_us", 1.6),
    Ratio("ours-daphne", "bare-daphne", "fanout_cpu_us"),
    Ratio("ours-daphne", "bare-daphne", "connect_cpu_us"),
    Ratio("ours-daphne", "bare-daphne", "memory_kib"),
]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, least and greatest of some values; nan for values that could not be taken."""
    taken = [value for value in values if math.isfinite(value)] or [math.nan]
    return {"median": median(taken), "min": min(taken), "max": max(taken)}


def summarise(systems: list[System], plan: Plan, rounds: list[Round]) -> dict[str, Any]:
    """Return everything that was found, as JSON takes it."""
    notes = {system.name: system.note for system in systems if system.note}
    return summary_of([system.name for system in systems], plan, rounds, MEASURES, RATIOS, PACKAGES) | {"notes": notes}


def summary_of(
    names: Sequence[str],
    plan: Plan,
    rounds: list[Round],
    measures: Iterable[str],
    ratios: Iterable[Ratio],
    packages: Iterable[str],
) -> dict[str, Any]:
    """Return rounds, their medians and ratios, and where they were measured. A side may lack a measure."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "kernel": platform.release(),
            "cores": os.cpu_count(),
            "cpu": cpu_model(),
            "python": platform.python_version(),
        },
        "versions": {name: installed(name) for name in packages},
        "plan": asdict(plan),
        "rounds": rounds,
        "systems": {
            name: {
                measure: spread([result[name][measure] for result in rounds])
                for measure in measures
                if all(measure in result[name] for result in rounds)
            }
            for name in names
        },
        "ratios": [compare(ratio, rounds) for ratio in ratios if ratio.system in names and ratio.yardstick in names],
    }


def compare(ratio: Ratio, rounds: list[Round]) -> dict[str, Any]:
    """Return a ratio round by round, its median, and whether that reaches the goal."""
    values = spread([result[ratio.system][ratio.measure] / result[ratio.yardstick][ratio.measure] for result in rounds])
    met = None
    if ratio.goal is not None:
        met = values["median"] >= ratio.goal if ratio.at_least else values["median"] <= ratio.goal
    return {**asdict(ratio), **values, "met": met}


def installed(package: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_model() -> str:
    """Return the processor's name as Linux gives it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def markdown(summary: dict[str, Any], command: str) -> str:
    """Render a summary as two Markdown tables with what must be known to read them."""
    notes = "; ".join(f"{name}: {note}" for name, note in summary["notes"].items())
    intro = [f"{preamble(summary, command, 'one server process')}" + (f" {notes}." if notes else "")]
    parts = [intro, measure_table(summary, MEASURES), ratio_table(summary, MEASURES)]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def preamble(summary: dict[str, Any], command: str, processes: str) -> str:
    """Say how, when, on what and with what the figures were measured."""
    plan, machine = summary["plan"], summary["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in summary["versions"].items() if number)
    return (
        f"`{command}`, {summary['date'][:10]}: median (least to greatest) of {len(summary['rounds'])} rounds, each of"
        f" {plan['connections']:,} connections, {plan['senders']} keep-alive senders, {plan['size']}-byte text,"
        f" {processes}. Linux {machine['kernel']}, {machine['cores']} cores of {machine['cpu']}, Python"
        f" {machine['python']}, {packages}."
    )


def measure_table(summary: dict[str, Any], titles: Titles) -> list[str]:
    """Return a table of measures, a column for each system."""
    names = list(summary["systems"])
    rows = []
    for measure, (title, unit) in titles.items():
        values = [summary["systems"][name].get(measure) for name in names]
        rows.append([title.format(**summary["plan"]), unit, *[figures(value) if value else "" for value in values]])
    return table(["measure", "unit", *names], rows)


def ratio_table(summary: dict[str, Any], titles: Titles) -> list[str]:
    """Return a table of the ratios with their goals; nothing if there are none."""
    rows = [
        [
            titles[ratio["measure"]][0].format(**summary["plan"]),
            f"{ratio['system']} / {ratio['yardstick']}",
            f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})",
            "" if ratio["goal"] is None else f"{'>=' if ratio['at_least'] else '<='} {ratio['goal']}",
            {None: "", True: "met", False: "**not met**"}[ratio["met"]],
        ]
        for ratio in summary["ratios"]
    ]
    return table(["ratio", "systems", "median (spread)", "goal", ""], rows) if rows else []


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]


def figures(values: dict[str, float]) -> str:
    """Render a median with its spread, to three digits or whole numbers."""
    low, middle, high = (digits(values[name]) for name in ("min", "median", "max"))
    return f"{middle} ({low}-{high})"


def digits(value: float) -> str:
    """Render a number so that it shows about three digits."""
    if not math.isfinite(value):
        return "-"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def write_between_markers(path: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    """Replace what stands between two marks in a file; raise BenchError if they are not there."""
    content = path.read_text() if path.exists() else ""
    before, found_begin, rest = content.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise BenchError(f"expected the lines {begin} and {end} in {path} but did not find them")
    path.write_text(f"{before}{begin}\n{text}{end}{after}")
