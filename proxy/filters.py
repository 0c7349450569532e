"""The admin's filters: each has a few conditions with names, in the page's address."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from proxy.models import Node


class OneOf(admin.SimpleListFilter):
    """A filter with named conditions; an unknown name finds nothing."""

    def conditions(self) -> dict[str, tuple[str, Q]]:
        """Value in the address -> title, condition."""
        raise NotImplementedError

    def lookups(self, request: HttpRequest, model_admin: admin.ModelAdmin[Any]) -> list[tuple[str, str]]:
        return [(value, title) for value, (title, _) in self.conditions().items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value, known = self.value(), self.conditions()
        if value is None:
            return queryset
        return queryset.filter(known[value][1]) if value in known else queryset.none()


class NodeFilter(OneOf):
    title = parameter_name = "node"

    def conditions(self) -> dict[str, tuple[str, Q]]:
        return {str(node.pk): (str(node), Q(node=node.pk)) for node in Node.objects.filter(ended_at=None)}


class TransportFilter(OneOf):
    title = parameter_name = "transport"

    def conditions(self) -> dict[str, tuple[str, Q]]:
        # Fixed: asking the table which there are means reading all of it.
        return {"websocket": ("WebSocket", Q(transport="websocket"))}


class AgeFilter(OneOf):
    title = parameter_name = "age"

    def conditions(self) -> dict[str, tuple[str, Q]]:
        now = timezone.now()
        minute, hour, day = (now - timedelta(**{unit: 1}) for unit in ("minutes", "hours", "days"))
        return {
            "under-minute": ("under a minute", Q(connected_at__gt=minute)),
            "under-hour": ("under an hour", Q(connected_at__gt=hour)),
            "over-hour": ("over an hour", Q(connected_at__lte=hour)),
            "over-day": ("over a day", Q(connected_at__lte=day)),
        }


class EventStateFilter(OneOf):
    title, parameter_name = "state", "state"

    def conditions(self) -> dict[str, tuple[str, Q]]:
        return {"pending": ("pending", Q(gave_up=False)), "failed": ("failed", Q(gave_up=True))}


class NodeStateFilter(OneOf):
    title, parameter_name = "state", "state"

    def conditions(self) -> dict[str, tuple[str, Q]]:
        return {"running": ("running", Q(ended_at=None)), "ended": ("ended", Q(ended_at__isnull=False))}
