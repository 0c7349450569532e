"""What all reports are made of: medians and spreads, ratios with their goals, the machine; as Markdown and as JSON."""

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
from .work import Plan

PACKAGES = ["Django", "channels", "uvicorn", "daphne", "uvloop", "httptools", "websockets", "autobahn"]

VERDICTS = {None: "", True: "met", False: "**not met**"}

Titles = Mapping[str, tuple[str, str]]  # measure -> its title, in which a Plan's fields may stand, and its unit


@dataclass(frozen=True)
class Ratio:
    """A measure of one system over that of another in the same round, or over its `yardstick_measure`.

    `goal` is the most it may be, or with `at_least` the least; None: no goal.
    """

    system: str
    yardstick: str
    measure: str
    goal: float | None = None
    at_least: bool = False
    yardstick_measure: str = ""

    def found_in(self, result: Round) -> float | None:
        """Return its value in a round; None if a side or its measure is missing."""
        value = result.get(self.system, {}).get(self.measure)
        yardstick = result.get(self.yardstick, {}).get(self.yardstick_measure or self.measure)
        if value is None or yardstick is None:
            return None
        return value / yardstick if yardstick else math.nan


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median, least and greatest of some values; nan for values that could not be taken."""
    taken = [value for value in values if math.isfinite(value)] or [math.nan]
    return {"median": median(taken), "min": min(taken), "max": max(taken)}


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
        "ratios": comparisons(ratios, rounds),
    }


def comparisons(ratios: Iterable[Ratio], rounds: list[Round]) -> list[dict[str, Any]]:
    """Return those ratios whose two sides were measured in all rounds."""
    return [found for ratio in ratios if (found := compare(ratio, rounds))]


def compare(ratio: Ratio, rounds: list[Round]) -> dict[str, Any] | None:
    """Return a ratio's median over the rounds and whether that reaches the goal; None if a side wasn't measured."""
    taken = [value for result in rounds if (value := ratio.found_in(result)) is not None]
    if len(taken) < len(rounds):
        return None
    values = spread(taken)
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
            two_digits(ratio),
            bound(ratio["goal"], ratio["at_least"]),
            VERDICTS[ratio["met"]],
        ]
        for ratio in summary["ratios"]
    ]
    return table(["ratio", "systems", "median (spread)", "goal", ""], rows) if rows else []


def two_digits(ratio: Mapping[str, float]) -> str:
    """Render a ratio with its spread."""
    return f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})"


def bound(goal: float | None, at_least: bool) -> str:
    """Render a goal."""
    return "" if goal is None else f"{'>=' if at_least else '<='} {goal}"


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


def write_between_markers(path: Path, text: str, begin: str, end: str) -> None:
    """Replace what stands between two marks in a file; raise BenchError if they are not there."""
    content = path.read_text() if path.exists() else ""
    before, found_begin, rest = content.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise BenchError(f"expected the lines {begin} and {end} in {path} but did not find them")
    path.write_text(f"{before}{begin}\n{text}{end}{after}")
