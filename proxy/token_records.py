"""Push tokens in the database: which ones were made, and which ones are revoked. Commands write, `nodes` reads."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from django.utils import timezone

from proxy import tokens
from proxy.models import Token

KEEP = timedelta(days=1)  # after their expiry: clocks of other machines may be behind


def make(name: str, prefix: str, verbs: Sequence[str], expires_at: datetime) -> tuple[Token, str]:
    """A new token's record, and the token."""
    record = Token.objects.create(name=name, prefix=prefix, verbs=",".join(verbs), expires_at=expires_at)
    grant = tokens.Grant(str(record.pk), prefix, tuple(verbs), int(expires_at.timestamp()))
    return record, tokens.sign(grant)


def revoke(identity: UUID) -> bool:
    """From now on, for good; False if there is no such token."""
    found = Token.objects.filter(pk=identity)
    found.filter(revoked_at=None).update(revoked_at=timezone.now())
    return found.exists()


def revoke_token(token: bytes) -> None:
    """The same for a token, which this database needn't know: it may come from another one. Raises Unauthorized."""
    grant = tokens.verified(token)
    expires_at = datetime.fromtimestamp(grant.expires, UTC)
    facts = {"prefix": grant.prefix, "verbs": ",".join(grant.verbs), "expires_at": expires_at}
    record, _ = Token.objects.get_or_create(pk=UUID(grant.id), defaults=facts)
    revoke(record.pk)


def revoked() -> list[str]:
    """The ids of tokens that would be good if they weren't revoked."""
    found = Token.objects.filter(revoked_at__isnull=False, expires_at__gt=timezone.now() - KEEP)
    return [str(identity) for identity in found.values_list("pk", flat=True)]


def prune() -> None:
    """Delete those that have expired."""
    Token.objects.filter(expires_at__lt=timezone.now() - KEEP).delete()
