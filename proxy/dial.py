"""How a connection to another HTTP server comes about: its addresses, TCP, TLS. For `http_client`."""

import asyncio
import math
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from aiohappyeyeballs import start_connection

from proxy.exceptions import HostUnknown, TlsFailed, Unreachable, WrongCertificate
from proxy.http_connection import Connection

Make = Callable[[], Connection]
Dial = Callable[[Make], Awaitable[Connection]]
"""Opens a connection, as the protocol that is made for it. Raises Unreachable."""

ADDRESSES_LAST = 10.0  # seconds that a host's addresses are believed
NEXT_ADDRESS_AFTER = 0.25  # seconds without an answer from one; RFC 8305 section 5


class _OtherCertificate(ssl.SSLError):
    pass


def only(certificate: bytes) -> ssl.SSLContext:
    """For TLS with whoever has this certificate (DER), whatever it says and whoever signed it, and nobody else."""

    class Checked(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            if self.getpeercert(binary_form=True) != certificate:
                raise _OtherCertificate

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.sslobject_class = Checked
    return context


class Tcp:
    """To a host and port, with TLS if there is a context."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._host = host.rstrip(".")
        self._port = port
        self._tls = tls
        self._addresses: list[Any] = []
        self._asked_at = -math.inf
        self._lookup = asyncio.Lock()

    async def __call__(self, make: Make) -> Connection:
        loop = asyncio.get_running_loop()
        addresses = await self._where(loop)
        try:
            sock = await start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_AFTER, interleave=1, loop=loop)
        except (OSError, RuntimeError) as error:  # the latter is uvloop's
            raise Unreachable(_reason(error)) from error
        name = self._host if self._tls else None
        try:
            _, connection = await loop.create_connection(make, sock=sock, ssl=self._tls, server_hostname=name)
        except _OtherCertificate as error:
            raise WrongCertificate("another certificate than expected") from error
        except OSError as error:  # ssl.SSLError is one
            raise TlsFailed(_reason(error)) from error
        return connection

    async def _where(self, loop: asyncio.AbstractEventLoop) -> list[Any]:
        """The host's addresses, each time beginning with another one, so that all get their share."""
        if loop.time() - self._asked_at > ADDRESSES_LAST:
            async with self._lookup:  # one for all who wait
                if loop.time() - self._asked_at > ADDRESSES_LAST:
                    try:
                        self._addresses = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
                    except (socket.gaierror, UnicodeError) as error:
                        raise HostUnknown(f"no host {self._host}, as far as this machine knows") from error
                    self._asked_at = loop.time()
        found = self._addresses
        self._addresses = [*found[1:], found[0]]
        return found


class Unix:
    """To a UNIX socket."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def __call__(self, make: Make) -> Connection:
        try:
            _, connection = await asyncio.get_running_loop().create_unix_connection(make, self._path)
        except OSError as error:
            raise Unreachable(_reason(error)) from error
        return connection


def _reason(error: OSError | RuntimeError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate isn't believed, {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return str(error.reason or error)
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error)
