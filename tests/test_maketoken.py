"""`manage.py maketoken`."""

from pathlib import Path

import jwt
import pytest

from tests.operators import Done, manage


async def maketoken(directory: Path, *arguments: str) -> Done:
    return await manage("maketoken", *arguments, env={"EKBO_DATABASE_URL": f"sqlite:///{directory}/k.sqlite3"})


async def test_the_token_is_all_that_is_printed(tmp_path: Path) -> None:
    """On a database that no proxy has used yet."""
    done = await maketoken(tmp_path, "--prefix=room1.", "--verb=list", "--verb=send", "--expires=2d", "--name=chat")
    assert done.status == 0, done.errors
    (token,) = done.lines
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["prefix"], claims["verbs"], claims["v"]) == ("room1.", ["send", "list"], 1)
    assert f"token {claims['jti']}: send, list, keys that begin with 'room1.', until 20" in done.errors
    assert token not in done.errors
    assert token.rpartition(".")[2].encode() not in (tmp_path / "k.sqlite3").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--verb=send"], 2, "--prefix"),
        (["--prefix=x"], 2, "--verb"),
        (["--prefix=x", "--verb=admin"], 2, "invalid choice: 'admin'"),
        (["--prefix=a,b", "--verb=send"], 1, "--prefix: expected up to 256 visible ASCII"),
        (["--prefix=" + "x" * 257, "--verb=send"], 1, "--prefix: expected up to 256 visible ASCII"),
        (["--prefix=x", "--verb=send", "--name=a\nb"], 1, "--name: expected up to 255 printable"),
        *(
            (["--prefix=x", "--verb=send", f"--expires={life}"], 2, "expected a time like 30d")
            for life in ("0d", "0", "-1d", "500ms", "3651d", "99999h", "1w", "")
        ),
    ],
)
async def test_what_can_not_be(tmp_path: Path, arguments: list[str], status: int, said: str) -> None:
    done = await maketoken(tmp_path, *arguments)
    assert (done.status, done.output) == (status, "")
    assert said in done.errors


async def test_without_a_kept_key_there_is_no_use_in_a_token() -> None:
    done = await maketoken(Path("/proc"), "--prefix=x", "--verb=send")  # where nobody can make a file
    assert (done.status, done.output) == (1, "")
    assert "set EKBO_SECRET_KEY" in done.errors
