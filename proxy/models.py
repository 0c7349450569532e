"""What the database knows: processes, their sessions, close events that still have to be told, samples, push tokens.

`store` is the only writer of sessions and nodes; admin and commands read. Times are for people: what is due, and who is
dead, is decided by counts and by clocks that only go forward.
"""

import uuid
from typing import ClassVar

from django.db import models
from django.utils import timezone


class Node(models.Model):
    """One process, from its start to its end: a restarted one is a new node."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=255, db_index=True)
    """The host's name."""
    pid = models.PositiveIntegerField()
    worker = models.PositiveSmallIntegerField(default=0)
    endpoint = models.CharField(max_length=255)
    """Where its API is: host:port, or the path of a UNIX socket."""
    version = models.CharField(max_length=32)
    started_at = models.DateTimeField()
    heartbeat_at = models.DateTimeField()
    heartbeats = models.PositiveBigIntegerField(default=0)
    """Grows while the process lives; one that doesn't grow any more is dead, whatever the clocks say."""
    ended_at = models.DateTimeField(null=True, db_index=True)
    declared_dead = models.BooleanField(default=False)
    connections = models.PositiveIntegerField(default=0)
    total_connections = models.PositiveBigIntegerField(default=0)
    total_messages = models.PositiveBigIntegerField(default=0)
    connect_errors = models.PositiveBigIntegerField(default=0)
    message_errors = models.PositiveBigIntegerField(default=0)

    class Meta:
        ordering: ClassVar = ["-started_at"]
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.name} process {self.pid}"


class Sample(models.Model):
    """A node's counters at one moment, for plots; old ones are pruned."""

    node = models.ForeignKey(Node, models.CASCADE, related_name="samples")
    at = models.DateTimeField(db_index=True)
    connections = models.PositiveIntegerField()
    total_connections = models.PositiveBigIntegerField()
    total_messages = models.PositiveBigIntegerField()
    errors = models.PositiveBigIntegerField()
    """Refused connects and frames that couldn't be written, together."""

    class Meta:
        default_permissions = ("view",)
        indexes: ClassVar = [models.Index(fields=["node", "at"])]

    def __str__(self) -> str:
        return f"{self.node_id} at {self.at}"


class Session(models.Model):
    """One connection that the backend accepted, until the backend has been told of its end, then the row goes.

    While `ended_at` is empty it is live; then its close event is pending, until `gave_up`.
    """

    connection = models.UUIDField(primary_key=True, editable=False)
    """X-Kuiperbelt-Connection; the close event's id is made from it, so it is the same however often it is told."""
    key = models.CharField(max_length=256, db_index=True)
    node = models.ForeignKey(Node, models.DO_NOTHING, related_name="sessions", db_constraint=False)
    transport = models.CharField(max_length=16, default="websocket")
    address = models.CharField(max_length=64, db_index=True)
    user_agent = models.CharField(max_length=512)
    path = models.CharField(max_length=255)
    query = models.CharField(max_length=2048)
    """Empty unless the option registry_query is on: it may hold secrets."""
    subprotocol = models.CharField(max_length=255)
    endpoint = models.CharField(max_length=255)
    """X-Kuiperbelt-Endpoint."""
    connected_at = models.DateTimeField(db_index=True)

    ended_at = models.DateTimeField(null=True)
    code = models.PositiveSmallIntegerField(null=True)
    reason = models.CharField(max_length=16)
    teller = models.UUIDField(null=True)
    """The node whose task it is to tell the event; none: the next one that looks takes it."""
    attempts = models.PositiveIntegerField(default=0)
    next_attempt_at = models.DateTimeField(null=True)
    """By the teller's clock, which only goes forward (`clock`), so nobody else compares it."""
    last_error = models.CharField(max_length=512)
    gave_up = models.BooleanField(default=False)

    class Meta:
        default_permissions = ("view", "change")  # change: send to it, close it
        indexes: ClassVar = [
            models.Index(
                fields=["teller", "next_attempt_at"],
                name="pending",
                condition=models.Q(gave_up=False, ended_at__isnull=False),
            ),
            models.Index(fields=["ended_at"], name="ended", condition=models.Q(ended_at__isnull=False)),
        ]

    def __str__(self) -> str:
        return self.key


class CloseEvent(Session):
    """A session that has ended and whose backend hasn't been told, as the admin shows it."""

    class Meta:
        proxy = True
        default_permissions = ("view", "change")  # change: replay it


class Token(models.Model):
    """A push token that was made; the token itself isn't kept (tokens.py)."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=255)
    """Who got it, or what for; may be empty."""
    prefix = models.CharField(max_length=256)
    verbs = models.CharField(max_length=64)
    """Separated by commas."""
    made_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.verbs} on {self.prefix}*"
