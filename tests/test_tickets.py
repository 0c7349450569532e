"""Tickets of the console: only a good one counts, and none of them gets to the backend."""

from __future__ import annotations

import time

import pytest
from django.core import signing

from proxy.protocol import Headers
from proxy.tickets import COOKIE, LIFE, Ticket, is_brought, sign, take

TICKET = Ticket("watch.abc!1f", "localhost:9180")


def handshake(value: str, origin: str = "http://localhost:9180", before: str = "", after: str = "") -> Headers:
    cookie = f"{before}{COOKIE}={value}{after}"
    return [(b"host", b"localhost:9180"), (b"cookie", cookie.encode()), (b"origin", origin.encode())]


def test_a_good_one_counts_and_goes_no_further() -> None:
    headers = handshake(sign(TICKET))
    assert is_brought(headers)
    assert take(headers) == ([headers[0], headers[2]], TICKET)


def test_other_cookies_stay_as_they_are() -> None:
    left, ticket = take(handshake(sign(TICKET), before="a=b; ", after=f'; my{COOKIE}=c; d="e=f"'))
    assert ticket == TICKET
    assert (b"cookie", f'a=b; my{COOKIE}=c; d="e=f"'.encode()) in left


@pytest.mark.parametrize(
    "value",
    ["", "x", "a:b:c", "\xff:\0", sign(TICKET)[:-1], sign(TICKET)[1:], "W10:1:2"],
    ids=["empty", "no signature", "no value", "no ASCII", "end cut off", "start cut off", "no ticket"],
)
def test_a_forged_one_is_taken_away_all_the_same(value: str) -> None:
    headers = handshake(value)
    assert take(headers) == ([headers[0], headers[2]], None)


def test_an_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    value = sign(TICKET)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + LIFE - 2)
    assert take(handshake(value))[1] == TICKET
    monkeypatch.setattr(time, "time", lambda: now + LIFE + 2)
    assert take(handshake(value))[1] is None


@pytest.mark.parametrize(
    "origin", ["http://localhost:8000", "null", "", "http://localhost:9180.example", "localhost:9180"]
)
def test_a_connection_of_another_page_is_not_meant(origin: str) -> None:
    assert take(handshake(sign(TICKET), origin))[1] is None


def test_one_that_is_signed_for_something_else() -> None:
    other = signing.dumps([TICKET.channel, TICKET.host], salt="another")
    assert take(handshake(other))[1] is None


@pytest.mark.parametrize("headers", [[], [(b"cookie", b"a=b")], [(b"x-cookie", COOKIE.encode())]])
def test_others_bring_none(headers: Headers) -> None:
    assert not is_brought(headers)
