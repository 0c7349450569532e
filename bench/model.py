"""A large installation computed from measured coefficients: how many processes, nodes, Redis shards, bytes per second.

Pure arithmetic, used by bench.model_page. The formulas stand in docs/scaling.md with the same names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

PING_INTERVAL = 20.0  # seconds, proxy.keepalive.INTERVAL
PACKET = 66  # bytes around the payload of a packet: Ethernet 14, IPv4 20, TCP 20 with time stamps 12
PING, PONG = 2, 6  # bytes of these frames; a client's is masked
SOCKET = 4.8 * 1024  # bytes of kernel memory of an idle TCP connection at one end; docs/scaling.md says how measured
MICRO = 1e-6


@dataclass(frozen=True)
class Coefficients:
    """What one piece of work costs: CPU in microseconds, memory and transfers in bytes."""

    local: float  # proxies' CPU per send to a session of the process that takes it
    remote: float  # the same for a session of another process, both together
    connect: float
    close: float
    ping: float  # with its pong
    redis_send: float  # Redis' CPU per remote send: request and reply
    redis_connect: float
    redis_close: float
    process: float  # memory; workers share what the supervisor had before it forked them
    connection: float
    redis_session: float
    request: float  # HTTP, of one /send
    response: float
    frame: float
    redis_in: float  # per remote send
    redis_out: float


@dataclass(frozen=True)
class Target:
    """What is to be served, on what. `lifetime` is that of a connection, in seconds; loads are shares of a core."""

    connections: int = 1_000_000
    sends: float = 100_000.0  # per second, one session each
    lifetime: float = 1800.0
    process_load: float = 0.6
    redis_load: float = 0.6
    cores_per_node: int = 8  # each has a worker
    spare_nodes: int = 1  # may be lost without the others' loads going over the above
    link_bits: float = 10e9  # per second and direction, of a node and of a Redis host


@dataclass(frozen=True)
class Estimate:
    """What it takes. CPU in cores, memory in bytes, bandwidths in bits per second."""

    processes: int  # that the loads ask for
    nodes: int
    shards: int
    remote_share: float
    sends_per_worker: float  # that it takes from the backend, per second
    load: float  # of a worker, in cores
    send_cores: float
    connect_cores: float
    ping_cores: float
    redis_cores: float
    process_memory: float  # of one process
    node_memory: float  # its processes and the kernel's for their connections
    redis_memory: float  # of one shard
    client_bits: float  # from all nodes to all clients
    backend_bits: float  # from the backend to all nodes
    redis_in_bits: float  # to all shards
    redis_out_bits: float
    node_bits: float  # out of one node: to clients, to the backend, to Redis
    takeover_seconds: float  # for the connections of a lost node to be back, with all spare time of the others

    @property
    def cores(self) -> float:
        """Return the cores that the proxies use."""
        return self.send_cores + self.connect_cores + self.ping_cores


def coefficients(summary: Mapping[str, Any], kind: str) -> Coefficients:
    """Return what a run of `bench cluster` found, with the sends of one kind: send, busy or paced.

    A Redis that sleeps between two messages, as at a fixed rate, costs more per message than any that is busy enough to
    matter; so but for saturation its share is that of many bare clients.
    """
    local, remote, workers = (
        {name: found["median"] for name, found in summary["systems"][side].items()}
        for side in ("local", "remote", "workers")
    )
    return Coefficients(
        local=local[f"{kind}_proxy_cpu_us"],
        remote=remote[f"{kind}_proxy_cpu_us"],
        connect=local["connect_proxy_cpu_us"],
        close=local["close_proxy_cpu_us"],
        ping=local["ping_cpu_us"],
        redis_send=remote["send_redis_cpu_us" if kind == "send" else "crowd_redis_cpu_us"],
        redis_connect=local["connect_redis_cpu_us"],
        redis_close=local["close_redis_cpu_us"],
        process=workers["process_memory_kib"] * 1024,
        connection=local["memory_kib"] * 1024,
        redis_session=local["redis_session_bytes"],
        request=remote[f"{kind}_request_bytes"],
        response=remote[f"{kind}_response_bytes"],
        frame=frame_size(summary["plan"]["size"]),
        redis_in=remote[f"{kind}_redis_in_bytes"],
        redis_out=remote[f"{kind}_redis_out_bytes"],
    )


def frame_size(payload: int) -> int:
    """Return the bytes of a server's frame (RFC 6455 section 5.2)."""
    return payload + (2 if payload < 126 else 4 if payload < 65536 else 10)


def estimate(cost: Coefficients, target: Target) -> Estimate:
    """Return what the target takes at these costs."""
    turnover = target.connections / target.lifetime  # connects per second, and as many ends
    pings = target.connections / PING_INTERVAL
    connect_cores = turnover * (cost.connect + cost.close) * MICRO
    ping_cores = pings * cost.ping * MICRO

    def send_cores(processes: int) -> float:
        remote = remote_share(processes)
        return target.sends * ((1 - remote) * cost.local + remote * cost.remote) * MICRO

    processes = 1
    while send_cores(processes) + connect_cores + ping_cores > processes * target.process_load:
        processes += 1
    nodes = ceil(processes / target.cores_per_node) + target.spare_nodes
    workers = nodes * target.cores_per_node
    remote = remote_share(workers)
    redis_cores = (target.sends * remote * cost.redis_send + turnover * (cost.redis_connect + cost.redis_close)) * MICRO
    shards = max(1, ceil(redis_cores / target.redis_load))
    process_memory = cost.process + target.connections / workers * cost.connection
    client = (target.sends * (cost.frame + PACKET) + pings * (PING + PACKET)) * 8
    answers = target.sends * (cost.response + PACKET) * 8
    redis_in, redis_out = (target.sends * remote * size * 8 for size in (cost.redis_in, cost.redis_out))
    cores = send_cores(workers) + connect_cores + ping_cores
    spare = workers - target.cores_per_node - cores
    returning = target.connections / nodes * cost.connect * MICRO
    return Estimate(
        processes=processes,
        nodes=nodes,
        shards=shards,
        remote_share=remote,
        sends_per_worker=target.sends / workers,
        load=cores / workers,
        send_cores=send_cores(workers),
        connect_cores=connect_cores,
        ping_cores=ping_cores,
        redis_cores=redis_cores,
        process_memory=process_memory,
        node_memory=process_memory * target.cores_per_node + target.connections / nodes * SOCKET,
        redis_memory=target.connections / shards * cost.redis_session,
        client_bits=client,
        backend_bits=target.sends * (cost.request + PACKET) * 8,
        redis_in_bits=redis_in,
        redis_out_bits=redis_out,
        node_bits=(client + answers + redis_in) / nodes,
        takeover_seconds=returning / spare if spare > 0 else float("inf"),
    )


def remote_share(processes: int) -> float:
    """Return the share of sends that meet another process than the session's, when any process may get any."""
    return 1 - 1 / processes


def limits(cost: Coefficients, target: Target) -> dict[str, float]:
    """Return how many remote sends per second fill each thing that there is one of, to the full."""
    redis_bytes = max(cost.redis_in, cost.redis_out)
    return {
        "one core of the proxies": 1 / (cost.remote * MICRO),
        "one Redis (one core)": 1 / (cost.redis_send * MICRO),
        "one Redis' link": target.link_bits / 8 / redis_bytes,
        "one node's link to the clients": target.link_bits / 8 / (cost.frame + PACKET),
    }


def ceilings(cost: Coefficients, target: Target, found: Estimate) -> dict[str, float]:
    """Return how many sends per second fill each part of the whole installation, with nothing added to it."""
    workers = found.nodes * target.cores_per_node
    cpu = (found.send_cores / target.sends) or MICRO
    redis_bytes = max(cost.redis_in, cost.redis_out) * found.remote_share
    redis_cores = found.shards - target.connections / target.lifetime * (cost.redis_connect + cost.redis_close) * MICRO
    link = target.link_bits / 8
    return {
        "the workers": (workers - found.connect_cores - found.ping_cores) / cpu,
        "the Redis shards": redis_cores / (cost.redis_send * found.remote_share * MICRO),
        "the Redis shards' links": found.shards * link / redis_bytes,
        "the nodes' links": found.nodes * target.link_bits / (found.node_bits * found.nodes / target.sends),
    }
