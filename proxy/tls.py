"""TLS served by the proxy itself: the certificate and its key, read anew at SIGHUP. Used by runproxy."""

import ssl

from proxy import reload

HANDSHAKE_LIMIT = 10.0  # seconds for a client's TLS handshake
SHUTDOWN_LIMIT = 5.0  # seconds for a client to confirm the end of TLS

_ANSWER = ""  # to OpenSSL, for a key with a passphrase: or it would ask the terminal, and wait


def server_context(cert: str, key: str) -> ssl.SSLContext:
    """TLS 1.2 or newer, with the certificate chain in `cert` and its private key in `key`, both PEM.

    Raises ValueError. From then on SIGHUP reads both files anew; connections that are open keep the old certificate.
    """
    context = _load(cert, key)

    def read_anew() -> None:
        _load(cert, key)  # in a context of its own: a key that doesn't fit would spoil the one in use
        context.load_cert_chain(cert, key, password=_ANSWER)

    reload.on_reload("certificate", read_anew)
    return context


def _load(cert: str, key: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=_ANSWER)
    except OSError as error:
        raise ValueError(
            f"expected a certificate chain in {cert} and its private key, without passphrase, in {key}, both PEM; "
            f"found: {error.strerror or error}"
        ) from error
    return context
