"""The file of certificate authorities by which the backend's certificate is verified (option callback.ca)."""

import ssl
from typing import Any

from proxy import values


def ca_file(value: Any) -> str:
    """The name of a file that can be used. Raises ValueError."""
    try:
        name = values.text(value)
        trust(name)
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        raise ValueError("a readable file of CA certificates, PEM") from None
    return name


def trust(name: str) -> ssl.SSLContext:
    """Whom the authorities in this file vouch for, and nobody else; no name: those that the system trusts."""
    context = ssl.create_default_context(cafile=name or None)
    context.set_alpn_protocols(["http/1.1"])
    return context
