"""The processes that serve: what listens where the options say, which nodes the registry knows, and their clocks.

For `doctor`; `self_test` gets in by the same doors.
"""

import errno
import json
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.core.management.base import CommandError

from proxy import machine, node_http
from proxy.conf import Options
from proxy.exceptions import HttpError, TlsFailed, Unreachable, WrongCertificate
from proxy.findings import Finding, failed, ok, skipped, warning
from proxy.listeners import Place, places, refuse_file, why
from proxy.models import Node
from proxy.nodes import BEATS
from proxy.remote import ApiPlace

LIMIT = 2.0  # seconds for an answer
ANSWER_SIZE = 64 * 1024  # bytes
CLOCKS = 2.0  # seconds that nodes' clocks may differ by


@dataclass(frozen=True, slots=True)
class Door:
    """A listener of this host's node, as the configuration has it."""

    name: str
    place: Place
    tls: bool

    @property
    def address(self) -> str:
        """Where to connect to; a wildcard listens on loopback, too."""
        if self.place.sock:
            return "localhost"
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.place.host, self.place.host)
        return f"[{host}]:{self.place.port}" if ":" in host else f"{host}:{self.place.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.address}"

    def api(self) -> ApiPlace:
        """The same as the registry names it."""
        if self.place.sock:
            return ApiPlace(socket.gethostname(), os.path.abspath(self.place.sock))
        wild = self.place.host in ("", "0.0.0.0", "::")
        endpoint = f"{socket.gethostname()}:{self.place.port}" if wild else self.address
        return ApiPlace(socket.gethostname(), endpoint)


def doors(options: Options) -> tuple[Door, ...]:
    """The public one, then the API's, if it has one of its own."""
    names = ("listener", "API listener")
    return tuple(
        Door(name, place, bool(options.tls_cert) and place is public)
        for public in [places(options)[0]]
        for name, place in zip(names, (public, *places(options)[1:]), strict=False)
    )


async def check_door(door: Door, options: Options) -> tuple[Finding, bool]:
    """Who listens there; and whether that is the proxy."""
    where = door.place.in_words()
    if not door.place.sock and not door.place.port:
        return skipped("ports", door.name, "port 0: any free one, so it isn't known which"), False
    try:
        answer = await node_http.get(door.place.sock, door.address, door.tls, options.ping_path, ANSWER_SIZE, LIMIT)
        if answer.status == 200 and answer.body.startswith(b'{"result":"OK"'):
            return ok("ports", door.name, f"the proxy answers, {where}"), True
        found = f"something else, which answers {answer.status}"
    except WrongCertificate:
        advice = "It was renewed and not read yet (`kill -HUP` the proxy), or another server has the port."
        return failed("ports", door.name, f"the certificate {options.tls_cert}", "another one", advice), False
    except CommandError as error:
        advice = "Set EKBO_TLS_CERT to the file that the proxy has, and let this user read it."
        return failed("ports", door.name, "to know the proxy by its certificate", str(error), advice), False
    except TimeoutError:
        found = f"no answer within {LIMIT:g} s"
    except HttpError as error:
        if isinstance(error, Unreachable) and not isinstance(error, TlsFailed):
            return _unused(door, where), False
        found = f"something that isn't the proxy ({error})"
    advice = "See who has it (`ss -ltnp`); end that, or set EKBO_PORT to another one."
    return failed("ports", door.name, f"the proxy, {where}", found, advice), False


def _unused(door: Door, where: str) -> Finding:
    """Nothing listens: could the proxy?"""
    try:
        if door.place.sock:
            directory = os.path.dirname(os.path.abspath(door.place.sock))
            if not os.access(directory, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, directory)
            refuse_file(door.place.sock)
        else:
            for listener in door.place.listen():
                listener.close()
    except OSError as error:
        advice = "Choose another place (EKBO_PORT, EKBO_HOST, EKBO_API_PORT, EKBO_API_HOST, or the sockets)."
        return failed("ports", door.name, f"to listen, {where}", why(error), advice)
    return skipped("ports", door.name, f"nothing runs there, and it is free: {where}", "Start `manage.py runproxy`.")


def api_of(node: Node) -> ApiPlace:
    return ApiPlace(node.name, node.endpoint)


def check_nodes(nodes: Sequence[Node], options: Options, now: datetime) -> Iterator[Finding]:
    """The heartbeats of processes that haven't ended, as this machine's clock sees them, and their limits here."""
    if not nodes:
        yield skipped("nodes", "nodes", "the registry knows no process that runs")
        return
    alive = []
    for node in nodes:
        age = (now - node.heartbeat_at).total_seconds()
        name = f"{node.name}, process {node.pid}"
        if age > options.node_timeout:
            yield _silent(name, age, options)
            continue
        alive.append(node)
        if node.name == socket.gethostname():
            yield machine.check_process(node.pid, options)
        late = age - options.node_timeout / BEATS
        if age >= -CLOCKS and late <= CLOCKS:
            continue
        found = f"{-age:.0f} s ahead" if age < 0 else f"at least {late:.0f} s behind, or heartbeats that late"
        advice = "After a gap the older of two connections may win a key. Let NTP set the clocks (`timedatectl`)."
        yield warning("nodes", f"clock of {name}", f"this machine's, to {CLOCKS:g} s", found, advice)
    if alive:
        places_ = len({(node.name, node.endpoint) for node in alive})
        yield ok("nodes", "nodes", f"{len(alive)} process(es) at {places_} address(es), clocks compared by heartbeats")
    if len(versions := sorted({node.version for node in alive})) > 1:
        yield warning(
            "nodes", "versions", "one", ", ".join(versions), "Finish the update: restart those that are behind."
        )


def _silent(name: str, age: float, options: Options) -> Finding:
    advice = "It was killed, hangs, or lost the database, or its clock is behind. The next process that runs for "
    advice += f"{options.node_timeout:g} s tells the backend of its sessions' ends."
    return warning("nodes", name, f"a heartbeat within {options.node_timeout:g} s", f"none for {age:.0f} s", advice)


async def check_ready(place: ApiPlace, options: Options) -> tuple[Finding, bool]:
    """A node's own word, asked for where the registry says that its API is; and whether it said anything."""
    name = f"node {place.host} at {place.endpoint}"
    tls = node_http.has_tls()
    for sock, address in place.ways():
        try:
            answer = await node_http.get(sock, address, tls, options.ready_path, ANSWER_SIZE, LIMIT)
            said = json.loads(answer.body)
            break
        except (HttpError, TimeoutError, ValueError, CommandError):
            continue
    else:
        advice = "Pushes can't go there from here. Does its name resolve, and is its port open to this machine?"
        return failed("nodes", name, "an answer", "none", advice), False
    problems = [*said.get("degraded", []), *(each.get("error", "") for each in said.get("errors", []))]
    if answer.status == 200 and not problems:
        return ok("nodes", name, "ready"), True
    found = "; ".join(problems) or f"status {answer.status}"
    return failed("nodes", name, "ready", found, "Its own log says more."), True
