"""Files of API keys."""

from pathlib import Path

import pytest

from proxy.key_file import key_file, signing_key_file, signing_keys


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


SIGNING = "whsec_" + "A" * 32


def test_signing_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# the new one\n{SIGNING}\n")
    assert signing_key_file(str(file)).keys == signing_keys(SIGNING) == (SIGNING,)
    assert signing_keys(f"{SIGNING}, {SIGNING}") == (SIGNING, SIGNING)


@pytest.mark.parametrize("key", ["A" * 32, f"{SIGNING}_", *("whsec_" + "A" * size for size in (28, 33, 88))])
def test_what_is_no_signing_key(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match=r"keys like whsec_… with base64 of 24 to 64 random bytes"):
        signing_keys(key)
    file = tmp_path / "keys"
    file.write_text(key)
    with pytest.raises(ValueError, match=r"a readable file with a key like whsec_…"):
        signing_key_file(str(file))
