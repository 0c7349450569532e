"""The HTTP client of the callbacks, and one exchange with it, whose answer is capped. Used by `callbacks`."""

from typing import Any

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from proxy.ca_file import trust
from proxy.forwarding import TextHeaders

Answer = tuple[int, CIMultiDictProxy[str], bytes]
"""Status, headers, body. Headers are capped by aiohttp: 8 KiB a line, 128 of them."""


def client(ca: str, **connector: Any) -> aiohttp.ClientSession:
    """Verifies certificates, by the authorities in the file `ca`, or the system's when that is empty."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=trust(ca) if ca else True, **connector),
        timeout=aiohttp.ClientTimeout(total=None),  # Callbacks has one for everything
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,  # a compressed answer wasn't asked for, and unpacking could make it any size
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
    )


async def exchange(
    client: aiohttp.ClientSession, method: str, url: URL, headers: TextHeaders, body: bytes | None, limit: int
) -> Answer:
    """One request and its answer, whose body is read a little over the limit at most."""
    async with client.request(method, url, headers=headers, data=body, allow_redirects=False) as response:
        content = b""
        async for chunk in response.content.iter_any():
            content += chunk
            if len(content) > limit:
                response.close()
                break
        return response.status, response.headers, content
