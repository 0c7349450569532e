"""Signs callbacks in the form of Standard Webhooks, so that a backend knows who calls it (docs/backends.md).

See standardwebhooks.com: HMAC-SHA256 over `id.timestamp.body`, a signature for each key. `callbacks` uses it.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Sequence

from proxy.forwarding import TextHeaders

PREFIX = "whsec_"
NAMES = ("webhook-id", "webhook-timestamp", "webhook-signature")
KEY_SIZES = range(24, 65)  # bytes, says the specification


def secret_bytes(key: str) -> bytes:
    """The secret of a key like `whsec_…`: base64 of 24 to 64 bytes. Raises ValueError."""
    if not re.fullmatch(r"whsec_[A-Za-z0-9+/]+={0,2}", key):
        raise ValueError("no whsec_ with base64")
    try:
        secret = base64.b64decode(key.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("no base64") from None
    if len(secret) not in KEY_SIZES:
        raise ValueError("not 24 to 64 bytes")
    return secret


def signed(secrets: Sequence[bytes], event_id: str, timestamp: int, body: bytes) -> TextHeaders:
    """The three headers; `timestamp` is in seconds since 1970."""
    content = b"%s.%d.%s" % (event_id.encode(), timestamp, body)
    signatures = (base64.b64encode(hmac.digest(secret, content, "sha256")).decode() for secret in secrets)
    values = (event_id, str(timestamp), " ".join(f"v1,{signature}" for signature in signatures))
    return list(zip(NAMES, values, strict=True))
