"""Django's admin: sessions with what can be done to them, nodes, close events. Everything else is read-only.

`staff_actions` does it; the plots are in `dashboard`.
"""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import F, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.defaultfilters import pluralize
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.timesince import timesince

from proxy import conf, store, watch_page
from proxy.filters import AgeFilter, EventStateFilter, NodeFilter, NodeStateFilter, TransportFilter
from proxy.models import CloseEvent, Node, Session
from proxy.staff_actions import LIMIT, ActForm, CloseForm, SendForm, carry_out, describe, log_entries

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin

SHOWN = 20
"""Sessions that a page or a message names; of more it tells the number."""

admin.site.site_header = admin.site.site_title = "kuiperbelt"
admin.site.index_title = "Administration"
admin.site.site_url = None


def age(since: datetime | None) -> str:
    """For people: "12 s", "3 hours, 12 minutes"."""
    if since is None:
        return ""
    seconds = (timezone.now() - since).total_seconds()
    return f"{max(0, int(seconds))} s" if seconds < 60 else timesince(since)


class ReadOnlyAdmin(ModelAdmin):
    """Rows that only the proxy writes. Who may change the model may use the actions."""

    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    list_max_show_all = 0
    change_form_template = "admin/proxy/facts.html"

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_act_permission(self, request: HttpRequest) -> bool:
        """For actions, by `permissions=["act"]`."""
        return super().has_change_permission(request)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        title = str(self.opts.verbose_name_plural).capitalize()
        return super().changelist_view(request, {**(extra_context or {}), "title": title})

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        acts = [(name, text) for name, text in self.get_action_choices(request, []) if name]
        return super().change_view(
            request, object_id, form_url, {**(extra_context or {}), "acts": acts, "subtitle": None}
        )


@admin.register(Session)
class SessionAdmin(ReadOnlyAdmin):
    """Live sessions."""

    list_display = ("key", "address", "connected", "on_node", "transport", "user_agent")
    list_filter: ClassVar = [NodeFilter, TransportFilter, AgeFilter]
    # Both by their starts, which the indexes find.
    search_fields = ("key__startswith", "address__startswith")
    search_help_text = "The start of a key or of an address"
    sortable_by = ("key", "address", "connected")
    ordering = ("-connected_at",)
    actions = ("send_message", "close")
    fields = (
        "key", "connection", "on_node", "endpoint", "transport", "address", "user_agent", "path", "query",
        "subprotocol", "connected_at", "connected",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Session]:
        # Not a join: a node's row may be gone.
        return super().get_queryset(request).filter(ended_at=None).prefetch_related("node")

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        session = self.get_object(request, object_id)
        links = [(watch_page.url(session.key), "Watch")] if session else []
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), "links": links})

    @admin.display(description="node")
    def on_node(self, session: Session) -> str:
        try:
            return str(session.node)
        except Node.DoesNotExist:
            return "forgotten"

    @admin.display(description="connected for", ordering="connected_at")
    def connected(self, session: Session) -> str:
        return age(session.connected_at)

    @admin.action(description="Send a message", permissions=["act"])
    def send_message(self, request: HttpRequest, chosen: QuerySet[Session]) -> HttpResponse | None:
        return self._act(request, chosen, SendForm)

    @admin.action(description="Close", permissions=["act"])
    def close(self, request: HttpRequest, chosen: QuerySet[Session]) -> HttpResponse | None:
        return self._act(request, chosen, CloseForm)

    def _act(self, request: HttpRequest, chosen: QuerySet[Session], form_class: type[ActForm]) -> HttpResponse | None:
        """First the page that asks for what is needed, then, when that was sent, the deed and what became of it."""
        sessions = list(chosen[: LIMIT + 1])
        if len(sessions) > LIMIT:
            self.message_user(request, f"At most {LIMIT} sessions at once; commands take more.", messages.ERROR)
            return None
        if (ended := len(set(request.POST.getlist(ACTION_CHECKBOX_NAME))) - len(sessions)) > 0:
            self.message_user(request, f"Ended already: {ended} of the chosen sessions.", messages.WARNING)
        if not sessions:
            return None
        form = form_class(request.POST if "confirmed" in request.POST else None)
        if not form.is_valid():
            context = self.admin_site.each_context(request) | {
                "title": f"{form.title} {sessions[0] if len(sessions) == 1 else f'{len(sessions)} sessions'}",
                "opts": self.opts, "form": form, "media": self.media, "sessions": sessions, "shown": sessions[:SHOWN],
                "action": request.POST["action"], "join": conf.options().duplicate_session == "join",
            }  # fmt: skip
            return TemplateResponse(request, "admin/proxy/act.html", context)
        order = form.order()
        self._tell(request, describe(order), sessions, carry_out(order, sessions, request.user.pk))
        return None

    def _tell(self, request: HttpRequest, what: str, sessions: list[Session], failures: dict[str, str]) -> None:
        failed = [session for session in sessions if failures[session.key]]
        done = [session for session in sessions if not failures[session.key]]
        for session in failed[:SHOWN]:
            self.message_user(
                request, f"Session {session.key} ({session.address}): not done: {failures[session.key]}", messages.ERROR
            )
        if len(failed) > SHOWN:
            self.message_user(request, f"Not done for {len(failed) - SHOWN} more: see the log.", messages.ERROR)
        if len(done) > SHOWN:
            self.message_user(request, f"{what}: done for {len(done)} sessions.", messages.SUCCESS)
        else:
            for session in done:
                self.message_user(
                    request, f"Session {session.key} ({session.address}): {what}: done.", messages.SUCCESS
                )


@admin.register(Node)
class NodeAdmin(ReadOnlyAdmin):
    list_display = (
        "name", "pid", "state", "heartbeat", "connections", "total_connections", "total_messages", "errors",
    )  # fmt: skip
    list_filter: ClassVar = [NodeStateFilter]
    search_fields = ("name__startswith",)
    search_help_text = "The start of a host's name"
    ordering = (F("ended_at").desc(nulls_first=True), "-started_at")
    fields = (
        *list_display[:-1], "connect_errors", "message_errors", "endpoint", "version", "worker", "started_at",
        "heartbeat_at", "heartbeats", "ended_at",
    )  # fmt: skip

    @admin.display
    def state(self, node: Node) -> str:
        if node.declared_dead:
            return "declared dead"
        if node.ended_at:
            return "ended"
        silent = timezone.now() - node.heartbeat_at > timedelta(seconds=conf.options().node_timeout)
        return "silent" if silent else "alive"

    @admin.display
    def errors(self, node: Node) -> int:
        """As in samples: refused connects and frames that couldn't be written, together."""
        return node.connect_errors + node.message_errors

    @admin.display(description="last heartbeat")
    def heartbeat(self, node: Node) -> str:
        return f"{age(node.heartbeat_at)} ago"


@admin.register(CloseEvent)
class CloseEventAdmin(ReadOnlyAdmin):
    """Ended sessions whose backend hasn't been told."""

    list_display = ("key", "state", "reason", "ended_at", "attempts", "next_attempt_at", "last_error")
    list_filter: ClassVar = [EventStateFilter]
    search_fields = ("key__startswith", "address__startswith")
    search_help_text = SessionAdmin.search_help_text
    sortable_by = ("key", "ended_at")
    ordering = ("-ended_at",)
    actions = ("replay",)
    fields = (
        *list_display, "code", "connection", "node_id", "endpoint", "address", "user_agent", "path", "connected_at",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[CloseEvent]:
        return super().get_queryset(request).filter(ended_at__isnull=False)

    @admin.display
    def state(self, event: CloseEvent) -> str:
        return "failed" if event.gave_up else "pending"

    @admin.action(description="Replay: tell the backend again", permissions=["act"])
    def replay(self, request: HttpRequest, chosen: QuerySet[CloseEvent]) -> None:
        failed = list(chosen.filter(gave_up=True))
        log_entries(failed, request.user.pk, "Replay the close event")
        count = store.replay(Q(pk__in=[event.pk for event in failed]))
        self.message_user(request, f"{count} close event{pluralize(count)} will be told again now.", messages.SUCCESS)
