"""`manage.py closesessions`: close sessions by key, or all that filters select, and have the backend told."""

from collections.abc import Iterable
from typing import Any

from django.core.management.base import CommandError, CommandParser

from proxy import protocol, remote, selection
from proxy.console import ConsoleCommand, in_words
from proxy.exceptions import BadRequest, SessionNotFound
from proxy.printable import shown


class Command(ConsoleCommand):
    help = (
        "Close sessions: those of the named keys, or, with --all or filters, many. The backend is told of each by its "
        "close callback, with the reason operator. The exit status tells how many failed, up to 100."
    )
    needs_registry = False

    def add_arguments(self, parser: CommandParser) -> None:
        selection.add_keys(parser, "sessions")
        parser.add_argument("--all", action="store_true", help="all sessions that there are now")
        selection.add_filters(parser, "connected")
        parser.add_argument("--code", default="1000", help="close code: 1000, or 3000-4999; default 1000")
        parser.add_argument("--reason", default="", help="close reason, up to 123 bytes")
        parser.add_argument("--message", default="", help="a last text frame")
        selection.add_asking(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        order = _order(options)
        filters = options["all"] or selection.has_filter(options)
        if bool(options["keys"]) == filters:
            found = "both" if filters else "neither"
            raise CommandError(
                f"expected keys, or --all, --node, --transport, --address or --older-than, found {found}"
            )
        if options["keys"]:
            keys = selection.check_keys(options["keys"])
            if options["dry_run"]:
                self._show(keys)
            else:
                self._close(order, selection.batches(keys), len(keys), by_name=True)
            return
        self.require_registry()
        # Whoever connects from now on isn't meant, so that clients that come back are left alone. Told by the ids,
        # which grow, not by this machine's clock: others may be ahead of it.
        rows = selection.live(options)
        newest = rows.order_by("-connection").values_list("connection", flat=True).first()
        rows = rows.filter(connection__lte=newest) if newest else rows.none()
        found_keys = ([row.key for row in part] for part in selection.in_parts(rows))
        if options["dry_run"]:
            self._show(key for part in found_keys for key in part)
            return
        total = rows.count()
        if total:
            self.confirm(f"Close {in_words(total, 'session')}?", options["no_input"])
        self._close(order, found_keys, total, by_name=False)

    def _show(self, keys: Iterable[str]) -> None:
        key = None
        for key in keys:
            self.stdout.write(shown(key))
        if key is None:
            self.stderr.write("there is none")

    def _close(self, order: remote.Order, parts: Iterable[list[str]], total: int, *, by_name: bool) -> None:
        """A session that a filter found and that has ended meanwhile is no failure; a key that nobody has is one."""
        ignored = () if by_name else (SessionNotFound.text,)
        self.push(order, parts, total, "closed", ignored)


def _order(options: dict[str, Any]) -> remote.Order:
    for name in ("code", "reason", "message"):
        # What isn't UTF-8 comes as surrogates, which aren't printable either.
        if not options[name].isprintable():
            raise CommandError(f"--{name}: expected printable text, found {options[name]!r}")
    headers = [
        (b"x-kuiperbelt-close-code", options["code"].encode()),
        (b"x-kuiperbelt-close-reason", options["reason"].encode()),
    ]
    frame = protocol.make_frame(options["message"].encode(), "") if options["message"] else None
    try:
        return remote.Order(frame, protocol.close_code(headers), protocol.close_reason(headers))
    except BadRequest as error:
        raise CommandError(str(error)) from error
