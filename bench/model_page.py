"""The tables of docs/scaling.md: coefficients, what the target takes, what fills first. Used by bench.model_command."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from .model import Coefficients, Estimate, Target, ceilings, coefficients, estimate, limits
from .report import digits, table

BEGIN = "<!-- bench model: begin -->"
END = "<!-- bench model: end -->"
MIB, GIB = 1 << 20, 1 << 30

COEFFICIENTS = {
    "local": ("proxies' CPU per local send", "us"),
    "remote": ("proxies' CPU per remote send, both processes", "us"),
    "redis_send": ("Redis' CPU per remote send, request and reply", "us"),
    "redis_in": ("bytes to Redis per remote send", "B"),
    "redis_out": ("bytes from Redis per remote send", "B"),
    "connect": ("proxies' CPU per connect", "us"),
    "close": ("proxies' CPU per end of a connection", "us"),
    "ping": ("proxies' CPU per ping and pong", "us"),
    "redis_connect": ("Redis' CPU per connect", "us"),
    "redis_close": ("Redis' CPU per end of a connection", "us"),
    "process": ("memory of a worker without load", "B"),
    "connection": ("memory of a worker per connection", "B"),
    "redis_session": ("Redis' memory per session", "B"),
    "request": ("a `/send`", "B"),
    "response": ("its answer", "B"),
    "frame": ("the frame", "B"),
}

ESTIMATE: dict[str, Callable[[Estimate], str]] = {
    "remote share of the sends": lambda it: f"{it.remote_share:.0%}",
    "proxy cores in use": lambda it: f"{it.cores:.1f}",
    "- for sends": lambda it: f"{it.send_cores:.1f}",
    "- for connects and ends": lambda it: f"{it.connect_cores:.2f}",
    "- for pings": lambda it: f"{it.ping_cores:.2f}",
    "processes that this asks for": lambda it: f"{it.processes}",
    "**nodes**, the spare one included": lambda it: f"**{it.nodes}**",
    "sends that a worker takes": lambda it: f"{it.sends_per_worker:,.0f}/s",
    "load of a worker": lambda it: f"{it.load:.0%}",
    "memory of a worker": lambda it: f"{digits(it.process_memory / GIB)} GiB",
    "memory of a node": lambda it: f"{digits(it.node_memory / GIB)} GiB",
    "Redis cores in use": lambda it: f"{it.redis_cores:.2f}",
    "**Redis shards**": lambda it: f"**{it.shards}**",
    "memory of a shard's sessions": lambda it: f"{digits(it.redis_memory / MIB)} MiB",
    "to all clients": lambda it: bits(it.client_bits),
    "from the backend": lambda it: bits(it.backend_bits),
    "to all of Redis": lambda it: bits(it.redis_in_bits),
    "from all of Redis": lambda it: bits(it.redis_out_bits),
    "out of one node": lambda it: bits(it.node_bits),
    "a lost node's clients are back after": lambda it: f"{it.takeover_seconds:.1f} s",
}


def markdown(summary: dict[str, Any], target: Target) -> str:
    """Render coefficients, estimate and limits, a column for each rate that the sends were measured at."""
    plan = summary["plan"]
    kinds = {
        "paced": f"at {plan['rate']:,} sends/s",
        "busy": f"at {plan['busy_rate']:,} sends/s",
        "send": "at saturation",
    }
    columns = {title: coefficients(summary, kind) for kind, title in kinds.items()}
    parts = [
        [
            f"Coefficients of {summary['date'][:10]}, {plan['size']}-byte text, at {plan['rate']:,} sends/s from one"
            f" process to the other, at {plan['busy_rate']:,}, and as many as they could:"
        ],
        coefficient_table(columns),
        [
            f"{target.connections:,} connections that last {target.lifetime:,.0f} s each, {target.sends:,.0f} sends/s,"
            f" nodes of {target.cores_per_node} cores, processes loaded to {target.process_load:.0%} of a core, Redis"
            f" to {target.redis_load:.0%}, {target.spare_nodes} spare node:"
        ],
        estimate_table(columns, target),
        ["Sends per second that fill, to 100 %, one of each with remote sends, or all that the installation has:"],
        limit_table(columns, target),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def coefficient_table(columns: dict[str, Coefficients]) -> list[str]:
    """Return a table of the coefficients by the names that the formulas use."""
    rows = [
        [f"`{field.name}`", title, unit, *[digits(getattr(cost, field.name)) for cost in columns.values()]]
        for field in fields(Coefficients)
        for title, unit in [COEFFICIENTS[field.name]]
    ]
    return table(["coefficient", "meaning", "unit", *columns], rows)


def estimate_table(columns: dict[str, Coefficients], target: Target) -> list[str]:
    """Return a table of what the target takes."""
    estimates = [estimate(cost, target) for cost in columns.values()]
    rows = [[title, *[show(found) for found in estimates]] for title, show in ESTIMATE.items()]
    return table(["with the coefficients", *columns], rows)


def limit_table(columns: dict[str, Coefficients], target: Target) -> list[str]:
    """Return a table of what is full at how many sends per second, and what of the installation is so first."""
    single = [limits(cost, target) for cost in columns.values()]
    whole = [ceilings(cost, target, estimate(cost, target)) for cost in columns.values()]
    rows = [[name, *[f"{column[name]:,.0f}" for column in found]] for found in (single, whole) for name in found[0]]
    rows.append(["**first of all the installation has**", *[min(column, key=column.__getitem__) for column in whole]])
    return table(["filled", *columns], rows)


def bits(value: float) -> str:
    """Render bits per second."""
    return f"{digits(value / 1e9)} Gbit/s" if value >= 1e9 else f"{digits(value / 1e6)} Mbit/s"
