"""The report of `python -m bench`: the tables of all systems, their multiples of the peers, and the goals.

A measure that ends in `_large` is of the larger message.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .report import (
    PACKAGES,
    VERDICTS,
    Ratio,
    bound,
    comparisons,
    figures,
    preamble,
    summary_of,
    table,
    two_digits,
)
from .run import Failures, Round
from .system import System
from .work import Plan

BEGIN = "<!-- bench: begin -->"
END = "<!-- bench: end -->"
KEPT = 0.9  # of the open loop's rate: below that its latency is that of a queue that only grows


@dataclass(frozen=True)
class Table:
    """One table: its title and, by measure, the titles of its columns. A Plan's fields may stand in them."""

    title: str
    columns: Mapping[str, str]


LARGE = "{large:,} B"
TABLES = [
    Table(
        "CPU of all server processes, us",
        {
            "send_cpu_us": "single send",
            "fanout_cpu_us": "message, {keys} keys per send",
            "paced_cpu_us": "single send at {rate:,}/s",
            "connect_cpu_us": "connect",
            "receive_cpu_us": "receive callback",
            "batch_cpu_us": "message in a batch of {batch:,}",
        },
    ),
    Table(
        f"the same with {LARGE}",
        {
            "send_large_cpu_us": "single send",
            "fanout_large_cpu_us": "message, {keys} keys per send",
            "paced_large_cpu_us": "single send at {rate:,}/s",
            "receive_large_cpu_us": "receive callback",
        },
    ),
    Table(
        "throughput, 1/s",
        {
            "send_per_second": "single sends",
            "fanout_per_second": "messages, {keys} keys per send",
            "connects_per_second": "connects",
            "receive_per_second": "receive callbacks",
            "batch_per_second": "messages in batches",
            "send_large_per_second": f"single sends, {LARGE}",
            "fanout_large_per_second": f"messages, {{keys}} keys per send, {LARGE}",
            "receive_large_per_second": f"receive callbacks, {LARGE}",
        },
    ),
    Table(
        "latency at {rate:,} sends/s, ms; memory per idle connection of {memory_connections:,}, KiB",
        {
            "paced_p50_ms": "p50",
            "paced_p99_ms": "p99",
            "paced_large_p50_ms": f"p50, {LARGE}",
            "paced_large_p99_ms": f"p99, {LARGE}",
            "idle_memory_kib": "memory",
        },
    ),
]
TITLES = {measure: title for part in TABLES for measure, title in part.columns.items()}

# What is compared with each peer: as multiples of its own figure in the same round.
MULTIPLES = {
    "send_cpu_us": "CPU, single send",
    "fanout_cpu_us": "CPU, {keys} keys",
    "connect_cpu_us": "CPU, connect",
    "receive_cpu_us": "CPU, receive",
    "send_large_cpu_us": f"CPU, single send, {LARGE}",
    "idle_memory_kib": "memory",
    "send_per_second": "single sends/s",
    "paced_p99_ms": "p99",
}
COMPARED_WITH = ("kuiperbelt", "nchan")

GOALS = {
    "CPU per single send, push lane": Ratio("ours-uvicorn", "kuiperbelt", "send_cpu_us", 0.65),
    "throughput of single sends": Ratio("ours-uvicorn", "kuiperbelt", "send_per_second", 1.3, at_least=True),
    "CPU per message, {keys} keys per send": Ratio("ours-uvicorn", "kuiperbelt", "fanout_cpu_us", 0.8),
    "CPU per single send, Django view without the lane": Ratio("ours-view", "kuiperbelt", "send_cpu_us", 2.2),
    "CPU per connect, registry and Redis off": Ratio("ours-uvicorn", "kuiperbelt", "connect_cpu_us", 2.0),
    "CPU per connect, registry and Redis on": Ratio("ours-cluster", "kuiperbelt", "connect_cpu_us", 3.0),
    "memory per idle connection": Ratio("ours-uvicorn", "kuiperbelt", "idle_memory_kib", 0.6),
    "p99 at {rate:,} sends/s": Ratio("ours-uvicorn", "kuiperbelt", "paced_p99_ms", 1.0),
    "CPU per receive callback": Ratio("ours-uvicorn", "kuiperbelt", "receive_cpu_us", 2.0),
    "CPU per confirmed send to another process, Redis included, to a local send": Ratio(
        "ours-cluster", "kuiperbelt", "send_cpu_us", 1.3
    ),
    "CPU per message in a batch, to a single send": Ratio(
        "ours-uvicorn", "kuiperbelt", "batch_cpu_us", 0.4, yardstick_measure="send_cpu_us"
    ),
    "CPU per single send, to nchan's": Ratio("ours-uvicorn", "nchan", "send_cpu_us", 1.2),
    "CPU per single send, view, to the bare application's": Ratio("ours-view", "bare-uvicorn", "send_cpu_us", 2.2),
    "CPU per message, {keys} keys per send, to the bare application's": Ratio(
        "ours-uvicorn", "bare-uvicorn", "fanout_cpu_us", 1.5
    ),
    "CPU per connect, to the bare application's": Ratio("ours-uvicorn", "bare-uvicorn", "connect_cpu_us", 1.6),
    "memory per idle connection, to the bare application's": Ratio(
        "ours-uvicorn", "bare-uvicorn", "idle_memory_kib", 1.3
    ),
    "CPU per connect, registry on, to off": Ratio("ours-registry", "ours-uvicorn", "connect_cpu_us", 1.25),
    "CPU per single send, registry on, to off": Ratio("ours-registry", "ours-uvicorn", "send_cpu_us", 1.02),
    "CPU per single send, daphne, to the bare application's": Ratio("ours-daphne", "bare-daphne", "send_cpu_us", 1.6),
}


def split(systems: Sequence[System]) -> tuple[list[System], dict[str, str]]:
    """Return those systems that can run here, and by name what the others need."""
    reasons = {system.name: system.missing() for system in systems}
    absent = {name: reason for name, reason in reasons.items() if reason}
    return [system for system in systems if system.name not in absent], absent


def summarise(
    systems: Sequence[System], absent: Mapping[str, str], failures: Failures, plan: Plan, rounds: list[Round]
) -> dict[str, Any]:
    """Return everything that was found, as JSON takes it."""
    names = [system.name for system in systems]
    measures = sorted({measure for result in rounds for found in result.values() for measure in found})
    summary = summary_of(names, plan, rounds, measures, [], [*PACKAGES, "redis", "hiredis"])
    summary["versions"] |= {name: number for system in systems for name, number in system.versions().items()}
    summary["notes"] = {system.name: system.note for system in systems if system.note}
    summary["absent"] = dict(absent)
    summary["failures"] = failures
    summary["ratios"] = [
        found
        for yardstick in COMPARED_WITH
        for found in comparisons([Ratio(name, yardstick, measure) for name in names for measure in MULTIPLES], rounds)
    ]
    summary["goals"] = [goal(title.format(**asdict(plan)), ratio, rounds) for title, ratio in GOALS.items()]
    return summary


def goal(title: str, ratio: Ratio, rounds: list[Round]) -> dict[str, Any]:
    """Return a goal with what was got, if both sides were measured."""
    (found,) = comparisons([ratio], rounds) or [{**asdict(ratio), "met": None}]
    return {"title": title, **found}


def markdown(summary: dict[str, Any], command: str, picture: str = "") -> str:
    """Render a summary as Markdown tables with what must be known to read them."""
    systems = "; ".join(f"{name}: {note}" for name, note in summary["notes"].items())
    absent = [f"Absent: {name} ({reason})." for name, reason in summary["absent"].items()]
    parts = [
        [preamble(summary, command, "one server process where nothing else is said")],
        [systems + "." if systems else ""],
        absent,
        [f"Failed: {name}, {reasons[0].splitlines()[0]}." for name, reasons in summary["failures"].items()],
        [f"![The same as bars]({picture})" if picture else ""],
        ["Goals: medians of the ratios within each round.", "", *goal_table(summary)],
        *[table_of(summary, part) for part in TABLES],
        *[multiples(summary, yardstick) for yardstick in COMPARED_WITH],
        [footnotes(summary)],
    ]
    return "\n\n".join("\n".join(part) for part in parts if any(part)) + "\n"


def goal_table(summary: dict[str, Any]) -> list[str]:
    """Return the table of goals: what was asked for, what was got."""
    rows = [
        [
            each["title"],
            f"{each['system']} / {each['yardstick']}",
            two_digits(each) if "median" in each else "not measured",
            bound(each["goal"], each["at_least"]),
            VERDICTS[each["met"]] or "open",
        ]
        for each in summary["goals"]
    ]
    return table(["goal", "systems", "got", "asked for", ""], rows)


def table_of(summary: dict[str, Any], part: Table) -> list[str]:
    """Return a table with a line for each system; nothing if nothing of it was measured."""
    plan, systems = summary["plan"], summary["systems"]
    columns = {
        measure: title for measure, title in part.columns.items() if any(measure in found for found in systems.values())
    }
    rows = [[name, *[cell(found, measure, plan) for measure in columns]] for name, found in systems.items()]
    head = [part.title, *columns.values()]
    return table([title.format(**plan) for title in head], rows) if columns else []


def cell(found: Mapping[str, dict[str, float]], measure: str, plan: Mapping[str, Any]) -> str:
    """Render a measure of a system; with a mark if it is of a rate that wasn't kept."""
    if measure not in found:
        return "-"
    return figures(found[measure]) + (" †" if measure.startswith("paced") and not kept(found, measure, plan) else "")


def kept(found: Mapping[str, dict[str, float]], measure: str, plan: Mapping[str, Any]) -> bool:
    """Tell whether the rate was kept at which a measure was taken."""
    rate = "paced_large_per_second" if "_large" in measure else "paced_per_second"
    return bool(found[rate]["median"] >= KEPT * plan["rate"])


def multiples(summary: dict[str, Any], yardstick: str) -> list[str]:
    """Return a table of the systems as multiples of one of them."""
    found = {(each["system"], each["measure"]): each for each in summary["ratios"] if each["yardstick"] == yardstick}
    columns = {measure: title for measure, title in MULTIPLES.items() if (yardstick, measure) in found}
    rows = [
        [name, *[two_digits(found[name, measure]) if (name, measure) in found else "-" for measure in columns]]
        for name in summary["systems"]
        if name != yardstick
    ]
    head = [f"as multiples of {yardstick}", *columns.values()]
    return table([title.format(**summary["plan"]) for title in head], rows) if columns else []


def footnotes(summary: dict[str, Any]) -> str:
    """Explain the marks in the cells."""
    rate = f"{summary['plan']['rate']:,}"
    return (
        "`-`: the system has no equivalent of that work (the bare one asks no backend; where a batch is missing,"
        f" each message takes a request of its own), or failed. †: it didn't keep {rate} sends/s, so this is"
        " the wait in a queue that grows for as long as the run lasts."
    )
