"""Files of API keys."""

from pathlib import Path

import pytest

from proxy.key_file import key_file


def test_one_key_a_line(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# the new one\na-key-of-16-chars\n\n  another-key-of-16  \r\n")
    found = key_file(str(file))
    assert (found.path, found.keys) == (str(file), ("a-key-of-16-chars", "another-key-of-16"))
    assert "a-key" not in repr(found)


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"short\n", b"a key with spaces in it\n", b"\xff" * 20])
def test_a_file_without_usable_keys(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="a readable file with a key of at least 16"):
        key_file(str(file))


@pytest.mark.parametrize("name", ["/nowhere/keys", "/", "a\0b", ["keys"]])
def test_what_is_no_file(name: object) -> None:
    with pytest.raises(ValueError, match="a readable file"):
        key_file(name)
