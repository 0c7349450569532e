"""Is a callback the proxy's? In Python, for any framework; the package `standardwebhooks` does the same."""

import base64
import hmac
import time

TOLERANCE = 300  # seconds that a callback may be old, or the clocks may differ


def verified(headers: dict[str, str], body: bytes, *keys: str) -> bool:
    """`headers` by lower-case name, `body` as it came, `keys` like whsec_…: one, or two while they change."""
    event_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not event_id or not timestamp.isascii() or not timestamp.isdigit():
        return False
    if abs(time.time() - int(timestamp)) > TOLERANCE:
        return False
    found = [part.encode() for part in headers.get("webhook-signature", "").split()]
    for key in keys:
        secret = base64.b64decode(key.removeprefix("whsec_"))
        digest = hmac.digest(secret, f"{event_id}.{timestamp}.".encode() + body, "sha256")
        expected = b"v1," + base64.b64encode(digest)
        if any(hmac.compare_digest(expected, one) for one in found):
            return True
    return False
