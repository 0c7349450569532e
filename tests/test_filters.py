"""The admin's filters: titles, and conditions that can be understood; pages with them are in test_admin.py."""

from datetime import timedelta
from typing import Any

import pytest
from django.db.models import Q
from django.utils import timezone

from proxy.filters import AgeFilter, EventStateFilter, NodeStateFilter, OneOf, TransportFilter


def made(kind: type[OneOf]) -> OneOf:
    # Without a request: Django makes them for one list, from its address.
    return kind.__new__(kind)


@pytest.mark.parametrize("kind", [AgeFilter, EventStateFilter, NodeStateFilter, TransportFilter])
def test_each_has_a_title_and_conditions(kind: type[OneOf]) -> None:
    choices: Any = made(kind).lookups(None, None)  # type: ignore[arg-type]
    assert choices
    assert all(value.isascii() and title for value, title in choices)
    assert kind.title
    assert kind.parameter_name


def test_ages_are_counted_back_from_now() -> None:
    conditions = made(AgeFilter).conditions()
    condition: Any = conditions["over-day"][1]
    ((name, since),) = condition.children
    assert name == "connected_at__lte"
    assert abs(timezone.now() - timedelta(days=1) - since) < timedelta(seconds=10)
    assert conditions["under-hour"][1] != conditions["over-hour"][1]
    assert made(EventStateFilter).conditions()["failed"][1] == Q(gave_up=True)
