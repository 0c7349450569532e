"""`manage.py checkbackend`: call each configured callback as the proxy would, and say in plain words what is wrong."""

import asyncio
import os
import uuid
from argparse import ArgumentTypeError
from collections.abc import AsyncIterator, Awaitable, Sequence
from time import perf_counter
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from proxy import callbacks, conf, forwarding, protocol
from proxy.console import ConsoleCommand
from proxy.diagnosis import explain
from proxy.endpoint import endpoint_for
from proxy.exceptions import CallbackError, ConnectRefused
from proxy.printable import shown

TEST = "kuiperbelt-check"
"""What a backend knows these calls by: a parameter of the query, the key when there is none, and the frame."""


class Command(ConsoleCommand):
    help = (
        "Call the backend's callbacks as the proxy would: connect for a client with the given query and headers, then "
        "establish, receive (a text frame) and close for the session that it is, or, if it wasn't let in, for the key "
        f"{TEST}. The exit status tells how many failed."
    )
    needs_registry = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("names", nargs="*", metavar="CALLBACK", help=f"{', '.join(callbacks.KINDS)}; none: all")
        parser.add_argument("--query", default=f"{TEST}=1", help=f"the client's query string; default {TEST}=1")
        parser.add_argument(
            "--header", action="append", default=[], type=_header, metavar="NAME:VALUE", help="a header of the client's"
        )
        parser.add_argument("--json", action="store_true", help="one JSON object per line")

    def handle(self, *args: Any, **options: Any) -> None:
        if any(problem.where == conf.NO_CALLBACK for problem in settings.KUIPERBELT_PROBLEMS):
            raise CommandError(f"{conf.NO_CALLBACK}: expected the backend's auth URL, found nothing")
        names = options["names"] or callbacks.KINDS
        if unknown := sorted(set(names) - set(callbacks.KINDS)):
            raise CommandError(f"CALLBACK: expected {', '.join(callbacks.KINDS)}, found {', '.join(unknown)}")
        self.finish(asyncio.run(self._run(names, options)))

    async def _run(self, names: Sequence[str], options: dict[str, Any]) -> int:
        failed = 0
        try:
            async for record in _findings(names, os.fsencode(options["query"]), options["header"]):
                failed += record["ok"] is False
                if options["json"]:
                    self.json_lines([record])
                    continue
                state = {True: "ok", False: "FAILED", None: "off"}[record["ok"]]
                taken = f"{record['seconds'] * 1000:.0f} ms" if record["seconds"] else ""
                self.stdout.write(f"{record['callback']:9}  {state:6}  {taken:>8}  {shown(record['url'])}".rstrip())
                if record["text"]:
                    self.stdout.write(f"    {shown(record['text'])}")
        finally:
            await callbacks.shut_down()
        return failed


async def _findings(
    names: Sequence[str], query: bytes, headers: list[tuple[bytes, bytes]]
) -> AsyncIterator[dict[str, Any]]:
    options = conf.options()
    client = callbacks.client()
    connection, endpoint = str(uuid.uuid4()), endpoint_for({}, options)
    key = TEST

    async def connect() -> str:
        nonlocal key
        sent = [
            *forwarding.client_headers(headers, options.session_header_name),
            *forwarding.peer(headers, "127.0.0.1", "ws", ()).headers(),
            ("X-Kuiperbelt-Endpoint", endpoint),
            ("X-Kuiperbelt-Connection", connection),
        ]
        accepted = await client.connect(sent, query, [])
        key = accepted.key
        size = accepted.first_frame.size if accepted.first_frame else 0
        return f"lets the client in as {key}" + (f", with a first frame of {size} bytes" if size else "")

    def calls(name: str) -> Awaitable[Any]:
        session = callbacks.Session(key, connection, endpoint)
        if name == "connect":
            return connect()
        if name == "establish":
            return client.establish(session)
        if name == "receive":
            return client.receive(session, protocol.make_frame(TEST.encode(), ""))
        return client.close(session, 1000, "client")

    for name in [name for name in callbacks.KINDS if name in names]:
        url: str = getattr(options, f"{name}_callback")
        ok, text, seconds = None, "", 0.0
        if url:
            began = perf_counter()
            try:
                said = await calls(name)
                ok, text = True, said if isinstance(said, str) else ""
            except (CallbackError, ConnectRefused) as error:
                ok, text = False, explain(name, url, error, options)
            seconds = perf_counter() - began
        # What stands after the question mark may be a secret.
        yield {"callback": name, "ok": ok, "seconds": seconds, "url": url.partition("?")[0], "text": text}


def _header(text: str) -> tuple[bytes, bytes]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ArgumentTypeError(f"expected NAME:VALUE, found {text!r}")
    return os.fsencode(name.strip().lower()), os.fsencode(value.strip())
