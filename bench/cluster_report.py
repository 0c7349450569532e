"""The tables of `python -m bench cluster`: measures, who used the cores, ratios with their goals."""

from typing import Any

from .cluster import SIDES
from .report import PACKAGES, Ratio, measure_table, preamble, ratio_table, summary_of, table
from .run import Round
from .work import Plan

BEGIN = "<!-- bench cluster: begin -->"
END = "<!-- bench cluster: end -->"

ONE, MANY, PACED, BUSY = ("one key per `/send`", "{keys} keys per `/send`", "{rate:,} sends/s", "{busy_rate:,} sends/s")

FULL = "one key, {many_senders} senders"

MEASURES = {
    "send_cpu_us": (f"CPU per message, {ONE}", "us"),
    "send_redis_cpu_us": ("- of which Redis", "us"),
    "fanout_cpu_us": (f"CPU per message, {MANY}", "us"),
    "fanout_redis_cpu_us": ("- of which Redis", "us"),
    "paced_cpu_us": (f"CPU per message, {PACED}", "us"),
    "paced_redis_cpu_us": ("- of which Redis", "us"),
    "paced_p50_ms": (f"latency p50, {PACED}", "ms"),
    "paced_p99_ms": (f"latency p99, {PACED}", "ms"),
    "busy_cpu_us": (f"CPU per message, {BUSY}", "us"),
    "busy_redis_cpu_us": ("- of which Redis", "us"),
    "busy_p50_ms": (f"latency p50, {BUSY}", "ms"),
    "busy_p99_ms": (f"latency p99, {BUSY}", "ms"),
    "send_per_second": (f"messages, {ONE}", "1/s"),
    "fanout_per_second": (f"messages, {MANY}", "1/s"),
    "full_cpu_us": (f"CPU per message, {FULL}", "us"),
    "full_per_second": (f"messages, {FULL}", "1/s"),
    "full_bound_per_second": ("- all cores at this CPU, load included", "1/s"),
    "send_publishes": (f"PUBLISH per message, {ONE}", ""),
    "fanout_publishes": (f"PUBLISH per message, {MANY}", ""),
    "send_publish_us": (f"Redis' CPU per PUBLISH, {ONE}", "us"),
    "paced_publish_us": (f"Redis' CPU per PUBLISH, {PACED}", "us"),
    "busy_publish_us": (f"Redis' CPU per PUBLISH, {BUSY}", "us"),
    "crowd_redis_cpu_us": ("Redis' CPU per request and reply of {crowd} bare clients", "us"),
    "send_redis_in_bytes": (f"bytes to Redis per message, {ONE}", "B"),
    "send_redis_out_bytes": (f"bytes from Redis per message, {ONE}", "B"),
    "fanout_redis_in_bytes": (f"bytes to Redis per message, {MANY}", "B"),
    "fanout_redis_out_bytes": (f"bytes from Redis per message, {MANY}", "B"),
    "connect_cpu_us": ("CPU per connect, first to last open", "us"),
    "connect_redis_cpu_us": ("- of which Redis", "us"),
    "connect_settled_cpu_us": ("CPU per connect, work up to {settle:g} s later included", "us"),
    "close_cpu_us": ("CPU per end of a connection", "us"),
    "connect_subscribes": ("SUBSCRIBE per connect", ""),
    "connect_publishes": ("PUBLISH per connect", ""),
    "redis_subscribe_us": ("Redis' CPU per SUBSCRIBE, all of a connect", "us"),
    "connect_redis_in_bytes": ("bytes to Redis per connect", "B"),
    "connect_redis_out_bytes": ("bytes from Redis per connect", "B"),
    "memory_kib": ("memory per connection (PSS of the proxies)", "KiB"),
    "redis_session_bytes": ("Redis' memory per subscribed session", "B"),
    "process_memory_kib": ("memory of a process without load (PSS)", "KiB"),
    "ping_cpu_us": ("CPU per ping of an idle connection, pong included", "us"),
    "idle_process_us": ("CPU per second of a process without sessions", "us"),
    "idle_redis_us": ("CPU per second of Redis without messages", "us"),
}

KINDS = {
    "send": ONE,
    "fanout": MANY,
    "paced": PACED,
    "busy": BUSY,
    "full": FULL,
    "crowd": "{crowd} bare clients of Redis",
    "connect": "connect",
}
PARTS = {"load": "load", "worker1": "busiest process", "worker2": "second process", "redis": "Redis", "idle": "idle"}
SHARES = [f"{kind}_{part}_share" for kind in KINDS for part in PARTS]
FOR_THE_MODEL = [
    f"{kind}_{what}"
    for kind in ("send", "paced", "busy")
    for what in ("request_bytes", "response_bytes", "proxy_cpu_us", "redis_in_bytes", "redis_out_bytes")
]
FOR_THE_MODEL += ["connect_proxy_cpu_us", "close_proxy_cpu_us", "close_redis_cpu_us"]

RATIOS = [
    Ratio("remote", "local", "send_cpu_us", 3.0),
    Ratio("remote", "local", "fanout_cpu_us", 3.0),
    Ratio("remote", "local", "paced_cpu_us"),
    Ratio("remote", "local", "paced_p99_ms", 3.0),
    Ratio("bare-remote", "bare-local", "paced_p99_ms"),
    Ratio("remote", "bare-remote", "paced_p99_ms"),
    Ratio("remote", "bare-remote", "paced_cpu_us"),
    Ratio("remote", "bare-remote", "send_cpu_us"),
    Ratio("workers", "local", "full_per_second", 1.2, at_least=True),
    Ratio("workers", "alone", "full_per_second"),
    Ratio("workers", "local", "send_per_second"),
    Ratio("workers", "local", "fanout_per_second"),
    Ratio("local", "alone", "send_cpu_us"),
    Ratio("local", "alone", "connect_cpu_us", 1.4),
    Ratio("local", "alone", "connect_settled_cpu_us"),
    Ratio("local", "alone", "memory_kib"),
]


def summarise(plan: Plan, rounds: list[Round]) -> dict[str, Any]:
    """Return everything that was found, as JSON takes it."""
    packages = [*PACKAGES, "channels-redis", "redis", "hiredis"]
    return summary_of(SIDES, plan, rounds, dict.fromkeys([*MEASURES, *SHARES, *FOR_THE_MODEL]), RATIOS, packages)


def markdown(summary: dict[str, Any], command: str) -> str:
    """Render a summary as three Markdown tables with what must be known to read them."""
    processes = f"{summary['plan']['workers']} workers, {summary['plan']['rate']:,} sends/s in the open loop"
    parts = [
        [preamble(summary, command, processes)],
        measure_table(summary, MEASURES),
        share_table(summary),
        ratio_table(summary, MEASURES),
    ]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def share_table(summary: dict[str, Any]) -> list[str]:
    """Return a table of who used how much of the machine's cores, in each kind of work."""
    rows = []
    for kind, title in KINDS.items():
        for side, measures in summary["systems"].items():
            shares = [measures.get(f"{kind}_{part}_share", {}).get("median") for part in PARTS]
            if None not in shares:
                others = max(0.0, 1 - sum(shares))
                rows.append([title.format(**summary["plan"]), side, *[f"{share:.0%}" for share in [*shares, others]]])
    return table(["share of the cores", "", *PARTS.values(), "others"], rows)
