"""What is unsafe in the options, for `manage.py check --deploy` (docs/security.md). Registered by apps."""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core import checks

from proxy import conf
from proxy.conf import Options
from proxy.forwarding import Network

_PRIVATE = [
    *map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16")),
    *map(ip_network, ("100.64.0.0/10", "fc00::/7", "fe80::/10", "::1/128")),
]
_LARGEST = {4: 8, 6: 32}
"""Bits of the largest network, by IP version, whose machines one may know all."""

_VARIETY = 8  # different characters of a key

Unsafe = Iterator[checks.CheckMessage]


@checks.register(checks.Tags.security, deploy=True)
def check_deployment(app_configs: Sequence[Any] | None, **kwargs: Any) -> list[checks.CheckMessage]:
    """A warning, proxy.W010 and on, for each unsafe option."""
    options = conf.options()
    parts = (_clients, _api, _callbacks, _cluster, _admin, _secrets)
    return [message for part in parts for message in part(options)]


def _unsafe(number: int, option: str, expected: str, found: str, hint: str) -> checks.CheckMessage:
    return checks.Warning(f"{option}: expected {expected}, found {found}", hint=hint, id=f"proxy.W{number:03}")


def _clients(options: Options) -> Unsafe:
    if options.origin_policy.name == "none":
        hint = "Any web page can open a connection with its visitor's cookies. List the origins of your own pages."
        yield _unsafe(10, "origin_policy (EKBO_ORIGIN_POLICY)", "the origins of your pages", "none", hint)
    if not (options.tls_cert or options.trusted_proxies or options.sock):
        hint = "Set EKBO_TLS_CERT and EKBO_TLS_KEY, or EKBO_TRUSTED_PROXIES to the address of what has TLS in front."
        expected = "TLS here or at a proxy in front"
        yield _unsafe(11, "tls_cert, trusted_proxies", expected, "neither: clients' cookies travel in the clear", hint)
    for network in options.trusted_proxies:
        if network.prefixlen < _LARGEST[network.version]:
            hint = "Whoever is in it can pretend to be any client. Name the proxies only."
            yield _unsafe(12, "trusted_proxies (EKBO_TRUSTED_PROXIES)", "the addresses of proxies", str(network), hint)


def _api(options: Options) -> Unsafe:
    if not (options.api_keys or options.has_api_listener):
        hint = "Behind a proxy here that doesn't say it is one, anybody can push. Set EKBO_API_KEYS or EKBO_API_SOCK."
        yield _unsafe(13, "api_keys (EKBO_API_KEYS)", "keys, or a listener of the API's own", "neither", hint)
    for network in options.api_allow:
        if not _is_private(network):
            hint = "Anybody there can push without a key. Use EKBO_API_KEYS, or name private networks."
            yield _unsafe(14, "api_allow (EKBO_API_ALLOW)", "private networks", str(network), hint)
    if options.has_api_listener and not (options.api_sock or _is_inside(options.api_host)):
        hint = "It speaks plain HTTP, so keys and messages can be read on the way."
        yield _unsafe(15, "api_host (EKBO_API_HOST)", "a private address", options.api_host, hint)


def _callbacks(options: Options) -> Unsafe:
    names = ("connect", "establish", "receive", "close")
    urls = {name: urlsplit(getattr(options, f"{name}_callback")) for name in names}
    for name, url in urls.items():
        if url.scheme == "http" and not _is_local(url.hostname):
            hint = "Cookies, keys and messages can be read and changed on the way. Use https."
            where = f"callback.{name} (EKBO_{name.upper()}_CALLBACK_URL)"
            yield _unsafe(16, where, "https, or a backend on this host", f"http to {url.hostname}", hint)
    elsewhere = any(url.scheme and not _is_local(url.hostname) for url in urls.values())
    if elsewhere and not (options.signing_keys or options.proxy_set_header):
        hint = "Whoever reaches the backend's callback paths can pretend to be the proxy. See docs/backends.md."
        where = "callback.signing_keys (EKBO_CALLBACK_SIGNING_KEYS)"
        yield _unsafe(25, where, "a key, or a secret in proxy_set_header", "neither", hint)
    if not options.callback_timeout:
        hint = "A backend that hangs keeps its clients waiting, and their memory, for ever."
        yield _unsafe(23, "callback.timeout (EKBO_CALLBACK_TIMEOUT)", "a limit", "none", hint)


def _cluster(options: Options) -> Unsafe:
    if options.clustered and not options.secret_key:
        hint = "Each machine would make its own: tokens and logins of one are refused by the others."
        expected = "the same one on all machines of the cluster"
        yield _unsafe(17, "secret_key (EKBO_SECRET_KEY)", expected, "none", hint)
    for item in options.redis_url:
        url = urlsplit(item)
        if url.scheme != "unix" and not url.password and not _is_local(url.hostname):
            hint = (
                "Whoever reaches it can push to every session. Give it a password, and rediss:// where others listen."
            )
            yield _unsafe(18, "redis.url (EKBO_REDIS_URL)", "a password", f"none for {url.hostname}", hint)
        if re.search("ssl_cert_reqs=(none|optional)|ssl_check_hostname=[fn0]", url.query, re.IGNORECASE):
            hint = "Whoever answers in its place gets the password. Name its authority: ?ssl_ca_certs=FILE"
            yield _unsafe(24, "redis.url (EKBO_REDIS_URL)", "a verified certificate", f"any for {url.hostname}", hint)


def _admin(options: Options) -> Unsafe:
    for origin in options.admin_origins:
        if origin.startswith("http:"):
            hint = "Passwords and cookies can be read on the way."
            yield _unsafe(19, "admin_origins (EKBO_ADMIN_ORIGINS)", "https", origin, hint)


def _secrets(options: Options) -> Unsafe:
    if any(len(set(key)) < _VARIETY for key in options.api_keys):
        hint = "It can be guessed. Use what `openssl rand -hex 32` prints."
        yield _unsafe(20, "api_keys (EKBO_API_KEYS)", "random keys", "one of few different characters", hint)
    if options.registry_query:
        hint = "Queries often hold tokens, which are then in the database and its copies. Set it while you need it."
        yield _unsafe(21, "registry_query (EKBO_REGISTRY_QUERY)", "false", "true", hint)
    if options.watch_contents:
        hint = "Who may watch reads what clients and backends say to each other. Set it while you need it."
        yield _unsafe(26, "watch_contents (EKBO_WATCH_CONTENTS)", "false", "true", hint)
    for option, name in _secret_files(options):
        if name and os.path.exists(name) and stat.S_IMODE(Path(name).stat().st_mode) & stat.S_IRWXO:
            yield _unsafe(22, option, "a file that not all can read", f"{name}, open to all", f"chmod 600 {name}")


def _secret_files(options: Options) -> Iterator[tuple[str, str]]:
    if not options.secret_key:
        yield "secret_key", str(settings.SECRET_KEY_FILE)
    yield "tls_key (EKBO_TLS_KEY)", options.tls_key
    if options.api_keys_file:
        yield "api_keys_file (EKBO_API_KEYS_FILE)", options.api_keys_file.path
    yield "database_url (EKBO_DATABASE_URL)", settings.SQLITE_FILE
    if config := settings.KUIPERBELT_CONFIG_FILE:
        alone, _ = conf.load({"EKBO_CONFIG": config})
        passwords = "@" in "".join([alone.database_url, *alone.redis_url])
        if alone.api_keys or alone.secret_key or alone.proxy_set_header or passwords:
            yield "EKBO_CONFIG", config


def _is_local(host: str | None) -> bool:
    try:
        return ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"


def _is_inside(host: str) -> bool:
    """Is this an address of a private network? Names are taken for one, wildcards aren't."""
    try:
        address = ip_address(host)
    except ValueError:
        return True
    return any(address in network for network in _PRIVATE)


def _is_private(network: Network) -> bool:
    # Not is_private: for that 0.0.0.0/0 is one.
    return any(network.version == each.version and network.subnet_of(each) for each in _PRIVATE)  # type: ignore[arg-type]
