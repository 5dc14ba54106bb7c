"""How the SDKs reach the network: by aiohttp, which costs half of their default for each token.

Imported only when a question is first asked, since it loads all that is needed for that.
"""

from collections.abc import AsyncIterator
from ssl import SSLContext
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2
from yarl import URL

from parley.adapters.body import SOURCE

_CONNECT_SECONDS = 5.0
_KEEPALIVE_SECONDS = 30.0


def http_client() -> httpx2.AsyncClient:
    """Return a client that waits as long as its caller, and that takes a prompt nowhere else."""
    return httpx2.AsyncClient(
        transport=AiohttpTransport(httpx2.create_ssl_context()), timeout=None, follow_redirects=False
    )


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Sends httpx2's requests by aiohttp.

    The SDKs bring such a transport too, but theirs parts from a response that is not whole by a TLS
    shutdown, for whose answer it waits 30 seconds: a stopped reply would be written, and billed, on.
    """

    def __init__(self, ssl_context: SSLContext) -> None:
        self._ssl_context = ssl_context
        self._proxies: dict[str, str | None] = {}
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request, and return the response before its body has come; raises aiohttp's errors."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    ssl=self._ssl_context, limit=0, keepalive_timeout=_KEEPALIVE_SECONDS
                ),
                response_class=_Response,
                timeout=aiohttp.ClientTimeout(total=None, connect=_CONNECT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            )
        response = await self._session.request(
            request.method,
            URL(str(request.url), encoded=True),
            proxy=self._proxy_of(request.url.scheme, request.url.host),
            headers=request.headers.multi_items(),
            data=request.content,
            allow_redirects=False,
        )
        stream = _Stream(response)
        return httpx2.Response(
            response.status,
            headers=response.raw_headers,
            stream=stream,
            request=request,
            extensions={SOURCE: stream},
        )

    def _proxy_of(self, scheme: str, host: str) -> str | None:
        """Return the proxy that the environment names for a host.

        aiohttp would look for it anew at each request, and for a password in a file, both in threads.
        """
        if host not in self._proxies:
            self._proxies[host] = None if proxy_bypass(host) else getproxies().get(scheme)
        return self._proxies[host]

    async def aclose(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()


class _Response(aiohttp.ClientResponse):
    """A response whose close, also while it is still awaited, is the end of its connection."""

    def close(self) -> None:
        # A response that is whole has given its connection back already.
        if self.connection is not None and self.connection.transport is not None:
            self.connection.transport.abort()
        super().close()


class _Stream(httpx2.AsyncByteStream):
    """A response's bytes, as much as has arrived at a time."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def read(self) -> bytes:
        """Return what has arrived, once there is any; nothing at the end. Raises aiohttp's errors."""
        return await self._response.content.readany()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data

    async def aclose(self) -> None:
        self._response.close()
