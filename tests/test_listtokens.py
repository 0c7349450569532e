"""`manage.py listtokens`."""

import json
from datetime import timedelta
from pathlib import Path

from django.utils.timezone import now

from proxy.models import Token
from tests.operators import Registry, manage


async def test_good_ones_or_all(tmp_path: Path) -> None:
    registry = await Registry.embedded(tmp_path)

    def make() -> list[str]:
        hour = timedelta(hours=1)
        made = [
            Token(name="chat \x1b[2J", prefix="room1.", verbs="send,list", expires_at=now() + hour),
            Token(name="old", prefix="", verbs="send", expires_at=now() - hour, made_at=now() - hour),
            Token(name="stolen", prefix="", verbs="send", expires_at=now() + hour, made_at=now() - 2 * hour),
        ]
        made[2].revoked_at = now()
        Token.objects.using(registry.alias).bulk_create(made)
        return [str(token.pk) for token in made]

    ids = await registry.run(make)
    good = await manage("listtokens", env=registry.env)
    assert [line.split()[0] for line in good.lines] == ["ID", ids[0]]
    assert good.lines[1].split()[1:4] == ["send,list", "room1.", "good"]
    assert "\x1b" not in good.output
    every = await manage("listtokens", "--all", "--json", env=registry.env)
    records = [json.loads(line) for line in every.lines]
    assert [(record["id"], record["state"]) for record in records] == list(
        zip(ids, ["good", "expired", "revoked"], strict=True)
    )
