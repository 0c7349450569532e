"""What staff can do to sessions in the admin: send a message, close. The forms, the delivery, the log of who did what.

Django runs the admin in a thread of the serving process; delivery runs on that process's event loop, which has the
sockets.
"""

import asyncio
import os
import socket
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from asgiref.sync import async_to_sync
from django import forms
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError

from proxy import conf, delivery, remote
from proxy.delivery import Delivery
from proxy.models import Node, Session
from proxy.protocol import MAX_CLOSE_REASON, Frame
from proxy.remote import Order

LIMIT = 500
"""Sessions that one action takes; for more there are the commands."""


class ActForm(forms.Form):
    """What staff fill in before something is done."""

    title: str
    """Of the page; the session's key follows."""
    verb: str
    """On the button."""

    def order(self) -> Order:
        raise NotImplementedError


class _Text(forms.CharField):
    """Text for a client: as it was typed, with plain line ends, and no longer than /send takes it."""

    widget = forms.Textarea(attrs={"rows": 4, "class": "vLargeTextField"})

    def __init__(self, **options: Any) -> None:
        super().__init__(strip=False, **options)

    def clean(self, value: Any) -> str:
        text: str = super().clean(value).replace("\r\n", "\n")
        limit = conf.options().max_body_size
        if (size := len(text.encode())) > limit:
            raise ValidationError(f"Expected at most {limit} bytes, found {size}.")
        return text


class SendForm(ActForm):
    title, verb = "Send a message to", "Send"

    text = _Text(help_text="Goes to the client as one text message.")

    def order(self) -> Order:
        return Order(_frame(self.cleaned_data["text"]))


class CloseForm(ActForm):
    title = verb = "Close"

    code = forms.IntegerField(
        initial=1000,
        help_text="1000, or 3000-4999 as your clients understand them. "
        "The backend is told by its close callback, with the reason operator.",
    )
    reason = forms.CharField(
        required=False,
        widget=forms.TextInput(attrs={"class": "vTextField"}),
        help_text=f"Tells the client why; {MAX_CLOSE_REASON} bytes at most.",
    )
    last_message = _Text(required=False, help_text="If there is one, it goes out before the close, as text.")

    def clean_code(self) -> int:
        code: int = self.cleaned_data["code"]
        if code == 1000 or 3000 <= code <= 4999:
            return code
        raise ValidationError(f"Expected 1000 or 3000-4999, found {code}.")

    def clean_reason(self) -> str:
        reason: str = self.cleaned_data["reason"]
        if (size := len(reason.encode())) > MAX_CLOSE_REASON:
            raise ValidationError(f"Expected at most {MAX_CLOSE_REASON} bytes, found {size}.")
        return reason

    def order(self) -> Order:
        code, reason, text = (self.cleaned_data[name] for name in ("code", "reason", "last_message"))
        return Order(_frame(text) if text else None, code, reason)


def _frame(text: str) -> Frame:
    return Frame(text, len(text.encode()))


def describe(order: Order) -> str:
    """For the log. What a message said isn't kept."""
    size = f"{order.frame.size} bytes" if order.frame else ""
    if order.code is None:
        return f"Send a text message of {size}"
    said = f", reason {order.reason!r}" if order.reason else ""
    return f"Close with code {order.code}{said}" + (f", last message of {size}" if size else "")


def carry_out(order: Order, sessions: Sequence[Session], user_id: Any) -> dict[str, str]:
    """Do it, and log it: key -> why not, empty for a session where it was done.

    It is in the log before anything is sent, so that nothing goes out unlogged; what became of it is added.
    """
    log = log_entries(sessions, user_id, describe(order))
    # Without Redis a key may be connected both here and elsewhere; `remote` asks all that have it.
    elsewhere = {session.key for session in sessions if not _is_here(session)}
    failures = async_to_sync(_deliver)(order, {session.key for session in sessions} - elsewhere)
    if elsewhere:
        try:
            with remote.reach() as push:
                failures |= dict.fromkeys(elsewhere, "") | push(order, list(elsewhere))
        except CommandError as error:  # such as a certificate that can't be read
            failures |= dict.fromkeys(elsewhere, str(error))
    failures = {key: why.removeprefix("kuiperbelt: ") for key, why in failures.items()}
    for entry, session in zip(log, sessions, strict=True):
        entry.change_message += f": {failures[session.key] or 'done'}"
    LogEntry.objects.bulk_update(log, ["change_message"])
    return failures


def log_entries(sessions: Iterable[Session], user_id: Any, message: str) -> list[LogEntry]:
    """Entries of Django's admin log, one for each session, as written."""
    return LogEntry.objects.bulk_create(
        LogEntry(
            user_id=user_id,
            content_type=ContentType.objects.get_for_model(session, for_concrete_model=False),
            object_id=str(session.pk) if session.pk else None,
            object_repr=str(session)[:200],
            action_flag=CHANGE,
            change_message=message,
        )
        for session in sessions
    )


async def _deliver(order: Order, keys: Collection[str]) -> dict[str, str]:
    # One by one: with strict_broadcast a request for all would serve nobody when one is gone.
    done = await asyncio.gather(*(_push(order, key) for key in keys))
    return {key: "".join(failure.error for failure in found.failures) for key, found in zip(keys, done, strict=True)}


async def _push(order: Order, key: str) -> Delivery:
    if order.code is not None:
        return await delivery.close([key], order.frame, order.code, order.reason, tell=True)
    assert order.frame is not None
    return await delivery.send([key], order.frame)


def _is_here(session: Session) -> bool:
    """Can this process reach it by delivery? In a cluster that is every session."""
    if conf.options().clustered:
        return True
    try:
        node = session.node
    except Node.DoesNotExist:
        return True
    return (node.name, node.pid) == (socket.gethostname(), os.getpid())
