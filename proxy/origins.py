"""Which pages may open a session: the Origin header against origin_policy (contract: GET connect 1). Pure rules."""

from urllib.parse import urlsplit

from proxy.protocol import Headers, header_values

POLICIES = ("none", "same_origin", "same_hostname")


def normalise_origin(text: str) -> str | None:
    """`scheme://host[:port]` in lower case without the scheme's default port; None if it isn't an origin."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        return None
    if not url.scheme or not url.hostname or url.path or url.query or url.fragment or "@" in url.netloc:
        return None
    if not text.isascii() or text != text.strip():
        return None
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    default = {"http": 80, "https": 443}.get(url.scheme)
    return f"{url.scheme}://{host}" + ("" if port is None or port == default else f":{port}")


def origin_allowed(headers: Headers, policy: str, allowed: frozenset[str]) -> bool:
    """May this handshake go on?

    `allowed` is the allow-list, which replaces the policy when it isn't empty. No Origin header at all means that
    the client isn't a browser, and passes; two of them, or `null`, never do except under policy none.
    """
    if policy == "none" and not allowed:
        return True
    origins = header_values(headers, b"origin")
    if not origins:
        return True
    origin = normalise_origin(origins[0].decode("latin-1")) if len(origins) == 1 else None
    if origin is None:
        return False
    if allowed:
        return origin in allowed
    hosts = header_values(headers, b"host")
    if len(hosts) != 1:
        return False
    scheme = origin.partition(":")[0]
    # The proxy may stand behind TLS, so the Host header is read with the page's own scheme.
    own = normalise_origin(f"{scheme}://{hosts[0].decode('latin-1')}")
    if own is None:
        return False
    if policy == "same_hostname":
        return urlsplit(own).hostname == urlsplit(origin).hostname
    return own == origin
