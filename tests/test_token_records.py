"""Push tokens in the database."""

from datetime import timedelta
from pathlib import Path
from uuid import uuid4

from django.utils.timezone import now

from proxy import token_records
from proxy.models import Token
from tests.databases import using


def test_made_revoked_and_forgotten(tmp_path: Path) -> None:
    with using(f"sqlite:///{tmp_path}/k.sqlite3"):
        hour = timedelta(hours=1)
        kept, _ = token_records.make("a", "room1.", ["send"], now() + hour)
        gone, _ = token_records.make("b", "", ["send", "list"], now() + hour)
        assert token_records.revoked() == []
        assert token_records.revoke(gone.pk)
        assert token_records.revoked() == [str(gone.pk)]
        first = Token.objects.get(pk=gone.pk).revoked_at
        assert token_records.revoke(gone.pk)
        assert Token.objects.get(pk=gone.pk).revoked_at == first
        assert not token_records.revoke(uuid4())
        # One that has expired is told for a while yet, then its record goes.
        Token.objects.filter(pk=gone.pk).update(expires_at=now() - hour)
        assert token_records.revoked() == [str(gone.pk)]
        token_records.prune()
        assert Token.objects.count() == 2
        Token.objects.filter(pk=gone.pk).update(expires_at=now() - token_records.KEEP - hour)
        assert token_records.revoked() == []
        token_records.prune()
        assert [token.pk for token in Token.objects.all()] == [kept.pk]
        assert str(kept) == "send on room1.*"
