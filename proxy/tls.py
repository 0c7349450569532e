"""TLS served by the proxy itself: the certificate and its key, read anew at SIGHUP. Used by runproxy."""

import ssl
from typing import Any

from proxy import reload

HANDSHAKE_LIMIT = 10.0  # seconds for a client's TLS handshake, where header_timeout is off
SHUTDOWN_LIMIT = 5.0  # seconds for a client to confirm the end of TLS

_ANSWER = ""  # to OpenSSL, for a key with a passphrase: or it would ask the terminal, and wait


class _Renewable(ssl.SSLContext):
    """What asyncio keeps, while each connection gets the context that was loaded last: whole, or the one before it."""

    current: ssl.SSLContext

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        return self.current.wrap_bio(*args, **kwargs)


def server_context(cert: str, key: str) -> ssl.SSLContext:
    """TLS 1.2 or newer, with the certificate chain in `cert` and its private key in `key`, both PEM.

    Raises ValueError. From then on SIGHUP reads both files anew; connections that are open keep the old certificate.
    """
    context = _Renewable(ssl.PROTOCOL_TLS_SERVER)
    context.current = _load(cert, key)

    def read_anew() -> None:
        context.current = _load(cert, key)

    reload.on_reload("certificate", read_anew)
    return context


def _load(cert: str, key: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # OpenSSL 3's default; before, a client could have it compute for ever
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=_ANSWER)
    except OSError as error:
        raise ValueError(
            f"expected a certificate chain in {cert} and its private key, without passphrase, in {key}, both PEM; "
            f"found: {error.strerror or error}"
        ) from error
    return context
