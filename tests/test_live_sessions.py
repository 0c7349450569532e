"""Who is alive: what the registry has, less those whom nobody has. The API that says so: test_reconcile."""

from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from django.utils import timezone

from proxy.live_sessions import SETTLED, Absent, judgement
from proxy.models import Session
from tests.databases import using

HERE, THERE = uuid4(), uuid4()


def row(key: str, node: UUID, age: timedelta) -> Session:
    return Session(connection=uuid4(), key=key, node_id=node, endpoint="web1:9180", connected_at=timezone.now() - age)


@pytest.mark.parametrize(
    ("node", "age", "everywhere", "ended"),
    [
        (HERE, 2 * SETTLED, False, True),
        (HERE, SETTLED / 2, False, False),  # its handshake may still go on
        (THERE, 2 * SETTLED, False, False),  # nobody here can know
        (THERE, 2 * SETTLED, True, True),
        (THERE, SETTLED / 2, True, False),
    ],
)
def test_a_row_whose_key_nobody_has(node: UUID, age: timedelta, everywhere: bool, ended: bool) -> None:
    old = row("bob", node, age)
    assert Absent({"bob"}, HERE, everywhere).has_ended(old) is ended
    assert not Absent({"eve"}, HERE, everywhere).has_ended(old)


def test_a_process_that_the_registry_does_not_know_yet_has_no_rows() -> None:
    assert not Absent({"bob"}, None, everywhere=False).has_ended(row("bob", THERE, 2 * SETTLED))


def test_each_key_once_in_the_order_asked(tmp_path: Path) -> None:
    rows = [row(key, HERE, 2 * SETTLED) for key in ("over", "two", "one", "two")]
    absent = Absent({"over", "never"}, HERE, everywhere=False)
    with using(f"sqlite:///{tmp_path}/test.sqlite3"):
        alive, gone = judgement(["one", "never", "two", "over", "one", "new"], rows, absent)
    assert [entry["session"] for entry in alive] == ["one", "two", "two", "new"]
    assert [entry["connection"] is None for entry in alive] == [False, False, False, True]
    assert gone == ["never", "over"]
