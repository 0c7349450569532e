"""`manage.py revoketokens`. That processes take it up: test_tokens."""

import json
from pathlib import Path
from uuid import uuid4

from tests.operators import Registry, manage
from tests.test_maketoken import maketoken


async def test_those_that_there_are(tmp_path: Path) -> None:
    registry = await Registry.embedded(tmp_path)
    said = (await manage("maketoken", "--prefix=x", "--verb=send", env=registry.env)).errors
    identity = said.split()[1].rstrip(":")
    unknown = str(uuid4())
    done = await manage("revoketokens", identity, unknown, "nonsense\x1b", env=registry.env)
    assert done.status == 2
    assert done.lines == ["revoked 1 token; every process knows within 5 s"]
    assert done.errors.splitlines() == [f"{unknown}: no token has this id", "nonsense\\x1b: no token has this id"]
    (listed,) = (await manage("listtokens", "--all", "--json", env=registry.env)).lines
    assert (json.loads(listed)["id"], json.loads(listed)["state"]) == (identity, "revoked")


async def test_a_database_without_tables(tmp_path: Path) -> None:
    env = {"EKBO_DATABASE_URL": f"sqlite:///{tmp_path}/k.sqlite3"}
    done = await manage("revoketokens", str(uuid4()), env=env)
    assert done.status == 1
    assert "manage.py migrate" in done.errors
    assert (await maketoken(tmp_path, "--prefix=x", "--verb=send")).status == 0
