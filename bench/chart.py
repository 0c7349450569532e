"""The picture of `python -m bench`: bars as SVG, readable on light and dark pages."""

from collections.abc import Mapping
from html import escape
from typing import Any

from .report import digits

PANELS = {
    "send_cpu_us": "CPU per single send, us",
    "fanout_cpu_us": "CPU per message, {keys} keys per send, us",
    "connect_cpu_us": "CPU per connect, us",
    "receive_cpu_us": "CPU per receive callback, us",
    "idle_memory_kib": "memory per idle connection, KiB",
    "send_per_second": "single sends per second (more is better)",
    "paced_p50_ms": "latency p50 at {rate:,} sends/s, ms",
    "paced_p99_ms": "latency p99 at {rate:,} sends/s, ms",
}
COLUMNS = 2
PANEL_WIDTH, NAME_WIDTH, BAR_WIDTH = 480, 104, 270
HEAD, LINE, GAP = 30, 18, 24
LONGEST = 4.0  # times the middle value: longer bars are cut, or they would make all others invisible

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 13px }
.value { font-size: 11px; fill: #59636e }
.ours { fill: #2563eb } .bare { fill: #93b4f5 } .peer { fill: #b45309 }
.spread { stroke: #1f2328; stroke-width: 1.2; opacity: .6 }
.cut { fill: none; stroke: #ffffff; stroke-width: 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc } .value { fill: #9198a1 }
  .ours { fill: #60a5fa } .bare { fill: #31548f } .peer { fill: #f0a04b }
  .spread { stroke: #f0f6fc } .cut { stroke: #0d1117 }
}
"""


def svg(summary: Mapping[str, Any]) -> str:
    """Draw a panel for each measure that was taken: a bar for each system's median, a line for its spread."""
    systems = summary["systems"]
    panels = {
        measure: title for measure, title in PANELS.items() if any(measure in found for found in systems.values())
    }
    height = HEAD + LINE * len(systems) + GAP
    parts = []
    for number, (measure, title) in enumerate(panels.items()):
        values = {name: found[measure] for name, found in systems.items() if measure in found}
        left, top = number % COLUMNS * PANEL_WIDTH, number // COLUMNS * height
        lines = panel(title.format(**summary["plan"]), list(systems), values)
        parts.append(f'<g transform="translate({left + 12} {top + 8})">{"".join(lines)}</g>')
    size = COLUMNS * PANEL_WIDTH, -(-len(panels) // COLUMNS) * height
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" width="{size[0]}" role="img">'
    label = f"<title>Speed of {', '.join(systems)}, {summary['date'][:10]}</title>"
    return "\n".join([head, label, f"<style>{STYLE}</style>", *parts, "</svg>", ""])


def panel(title: str, names: list[str], values: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the elements of one panel."""
    medians = sorted(value["median"] for value in values.values())
    longest = min(medians[-1], LONGEST * medians[len(medians) // 2])
    scale = BAR_WIDTH / max(longest, 1e-9)
    parts = [f'<text class="title" y="14">{escape(title)}</text>']
    for number, name in enumerate(names):
        y = HEAD + LINE * number
        parts.append(f'<text x="{NAME_WIDTH - 6}" y="{y + 10}" text-anchor="end">{escape(name)}</text>')
        parts += bar(name, y, scale, values[name]) if name in values else [text(NAME_WIDTH, y, "-")]
    return parts


def bar(name: str, y: int, scale: float, value: Mapping[str, float]) -> list[str]:
    """Return a system's bar, cut if it is too long, its spread and its value."""
    kind = name.partition("-")[0]
    kind = kind if kind in ("ours", "bare") else "peer"
    width = min(value["median"] * scale, BAR_WIDTH)
    parts = [f'<rect class="{kind}" x="{NAME_WIDTH}" y="{y}" width="{width:.1f}" height="12" rx="1"/>']
    end = width
    if value["median"] * scale > BAR_WIDTH + 0.5:
        x = NAME_WIDTH + BAR_WIDTH - 16
        parts.append(f'<path class="cut" d="M{x} {y + 14}l6 -16"/>')
    else:
        low, high = (min(value[side] * scale, BAR_WIDTH + 20) for side in ("min", "max"))
        parts.append(f'<path class="spread" d="M{NAME_WIDTH + low:.1f} {y + 6}H{NAME_WIDTH + high:.1f}"/>')
        end = max(width, high)
    return [*parts, text(NAME_WIDTH + end + 6, y, digits(value["median"]))]


def text(x: float, y: int, content: str) -> str:
    """Return a figure beside a bar."""
    return f'<text class="value" x="{x:.1f}" y="{y + 10}">{content}</text>'
