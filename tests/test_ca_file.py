"""The file of certificate authorities."""

from pathlib import Path

import pytest
import trustme

from proxy.ca_file import ca_file, trust


def test_a_file_of_authorities_and_no_others(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(file)
    assert ca_file(str(file)) == str(file)
    context = trust(str(file))
    assert len(context.get_ca_certs()) == 1
    assert context.check_hostname


@pytest.mark.parametrize("content", [b"", b"no certificate", b"\xff"])
def test_what_holds_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes(content)
    for name in (str(file), "/nowhere/ca.pem", "a\0b", ["ca.pem"]):
        with pytest.raises(ValueError, match="a readable file of CA certificates, PEM"):
            ca_file(name)
