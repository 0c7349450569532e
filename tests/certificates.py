"""Certificates for tests: made by trustme, written where the proxy reads them."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme


class Certificate:
    """A certificate for 127.0.0.1 and its key, in two files that can be written anew."""

    def __init__(self, directory: Path) -> None:
        self.cert = directory / "cert.pem"
        self.key = directory / "key.pem"
        self.renew()

    def renew(self) -> None:
        """Write another certificate and key."""
        self.write(trustme.CA().issue_cert("127.0.0.1", "localhost"))

    def write(self, made: trustme.LeafCert) -> None:
        made.cert_chain_pems[0].write_to_path(self.cert)
        made.private_key_pem.write_to_path(self.key)

    @property
    def env(self) -> dict[str, str]:
        return {"EKBO_TLS_CERT": str(self.cert), "EKBO_TLS_KEY": str(self.key)}

    def served_at(self, port: int) -> bool:
        """Does the server at this port show the certificate that is in the file now?"""
        served = ssl.get_server_certificate(("127.0.0.1", port), timeout=10)
        return ssl.PEM_cert_to_DER_cert(served) == ssl.PEM_cert_to_DER_cert(self.cert.read_text())
