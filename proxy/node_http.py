"""HTTP to the proxy's own nodes, for commands: over TCP or a UNIX socket, with TLS by the certificate that all have.

`remote` pushes this way, `node_check` and `self_test` look whether all is well.
"""

import asyncio
import re
import ssl
from collections.abc import Callable
from pathlib import Path

from django.core.management.base import CommandError

from proxy import conf
from proxy.dial import Dial, Make, Tcp, Unix, only
from proxy.exceptions import Unreachable
from proxy.forwarding import TextHeaders
from proxy.http_client import HttpClient
from proxy.http_connection import Answer, Connection
from proxy.http_request import Template, place_of
from proxy.http_stream import Stream

CONNECT_LIMIT = 5.0  # seconds
MISDIRECTED = 421  # the status of a process that isn't the one that was meant
ANOTHER = "another process answers there"
REFUSAL_SIZE = 1 << 16  # bytes
_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)


def has_tls() -> bool:
    """Does the API speak TLS?"""
    options = conf.options()
    return bool(options.tls_cert) and not options.has_api_listener


def known_by() -> ssl.SSLContext:
    """The nodes' certificate itself: we ask by an address that may not be among its names, and its CA is unknown.

    Raises CommandError.
    """
    file = conf.options().tls_cert
    try:
        found = _CERTIFICATE.search(Path(file).read_text())
    except (OSError, UnicodeDecodeError):
        found = None
    if not found:
        raise CommandError(
            f"expected the nodes' certificate, PEM, in {file} (EKBO_TLS_CERT), found none that is readable"
        )
    return only(ssl.PEM_cert_to_DER_cert(found[0]))


def client(sock: str, address: str, tls: bool) -> HttpClient:
    """What asks the node at this UNIX socket, or at host:port if that is empty. Raises CommandError."""
    return HttpClient(_dial(sock, address, tls))


def _dial(sock: str, address: str, tls: bool) -> Dial:
    place = place_of(f"{'https' if tls else 'http'}://{address}")
    way = Unix(sock) if sock else Tcp(place.host, place.port, known_by() if tls else None)

    async def dial(make: Make) -> Connection:
        try:
            async with asyncio.timeout(CONNECT_LIMIT):
                return await way(make)
        except TimeoutError:
            raise Unreachable("no answer in time") from None

    return dial


def credentials() -> TextHeaders:
    """What lets a command in: the first of the keys that its own configuration has."""
    keys = conf.options().api_keys
    return [("Authorization", f"Bearer {keys[0]}")] if keys else []


async def get(sock: str, address: str, tls: bool, path: str, limit: int, timeout: float) -> Answer:
    """A node's answer, of which `limit` bytes are wanted at most. Raises HttpError, TimeoutError, CommandError."""
    asked = client(sock, address, tls)
    try:
        return await asked.exchange(Template("GET", [("Host", address)]).request(path, []), limit, timeout)
    finally:
        await asked.shut_down()


async def stream(
    sock: str, address: str, headers: TextHeaders, path: str, on_piece: Callable[[bytes], None], silence: float
) -> Answer:
    """An answer whose body is handed on as it comes, while there are never `silence` seconds without any of it.

    A refusal has a body. Raises HttpError, TimeoutError, CommandError; Unreachable also when it isn't the process that
    `headers` mean.
    """
    loop = asyncio.get_running_loop()
    dialled = _dial(sock, address, has_tls())

    async def dial(_: Make) -> Connection:
        return await dialled(lambda: Stream(asked, loop, on_piece, silence))

    asked = HttpClient(dial)
    try:
        request = Template("GET", [("Host", address), *headers, *credentials()]).request(path, [])
        answer = await asked.exchange(request, REFUSAL_SIZE, silence)
    finally:
        await asked.shut_down()
    if answer.status == MISDIRECTED:
        raise Unreachable(ANOTHER)
    return answer
