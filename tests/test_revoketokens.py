"""`manage.py revoketokens`. That processes take it up: test_tokens."""

import json
from pathlib import Path
from secrets import token_hex
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
    assert done.lines == ["revoked 1 token; every process with this database knows within 5 s"]
    assert done.errors.splitlines() == [f"{unknown}: no token has this id", "nonsense\\x1b: no token has this id"]
    (listed,) = (await manage("listtokens", "--all", "--json", env=registry.env)).lines
    assert (json.loads(listed)["id"], json.loads(listed)["state"]) == (identity, "revoked")


async def test_a_token_that_this_database_does_not_know(tmp_path: Path) -> None:
    """It was made on another machine, or the database has been lost since."""
    here, there = tmp_path / "here", tmp_path / "there"
    for directory in (here, there):
        directory.mkdir()
    secret = {"EKBO_SECRET_KEY": token_hex(32)}
    ours, others = [(await Registry.embedded(directory)).env | secret for directory in (here, there)]
    made = await manage("maketoken", "--prefix=x", "--verb=send", env=others)
    identity = made.errors.split()[1].rstrip(":")
    done = await manage("revoketokens", made.lines[0], made.lines[0][:-1], "eyJ.x.x", env=ours)
    assert (done.status, done.lines[0][:15]) == (2, "revoked 1 token")
    assert done.errors.count("not allowed: the token isn't one of this proxy") == 2
    assert made.lines[0][:-1] not in done.errors
    (listed,) = (await manage("listtokens", "--all", "--json", env=ours)).lines
    record = json.loads(listed)
    assert (record["id"], record["state"], record["prefix"], record["verbs"]) == (identity, "revoked", "x", "send")
    assert (await manage("revoketokens", made.lines[0], identity, env=others)).status == 0


async def test_a_database_without_tables(tmp_path: Path) -> None:
    env = {"EKBO_DATABASE_URL": f"sqlite:///{tmp_path}/k.sqlite3"}
    done = await manage("revoketokens", str(uuid4()), env=env)
    assert done.status == 1
    assert "manage.py migrate" in done.errors
    assert (await maketoken(tmp_path, "--prefix=x", "--verb=send")).status == 0
