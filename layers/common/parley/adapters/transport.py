"""How the SDKs reach the network: by aiohttp, which costs half of their default for each token.

Imported only when a question is first asked, since it loads all that is needed for that.
"""

from collections.abc import AsyncIterator
from ssl import SSLContext
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2
from httptools import HttpParserError
from multidict import CIMultiDict
from yarl import URL

from parley.adapters.body import Opened, Source
from parley.adapters.provider_wire import Answer, Place, Wires
from parley.encoding import from_json

_CONNECT_SECONDS = 5.0
_KEEPALIVE_SECONDS = 30.0
# What a body decides about its headers.
_OF_THE_BODY = ("content-length", "transfer-encoding")
# The extension of a response by which its bytes are read as they arrived, and which outlives it: httpx2 would
# pass each lump through four generators, and keep the request for as long.
_SOURCE = "parley.source"
# An error that says more is none of a provider's.
_ERROR_BYTES = 1 << 16


def http_client(transport: "AiohttpTransport") -> httpx2.AsyncClient:
    """Return a client that waits as long as its caller, and that takes a prompt nowhere else."""
    return httpx2.AsyncClient(transport=transport, timeout=None, follow_redirects=False)


def opened(response: httpx2.Response) -> Opened:
    """Return how a response of `http_client` is read."""
    return Opened(response.headers.get("content-type", ""), response.extensions[_SOURCE])


class Envelope:
    """Where a request went, and with which headers, for others that differ in their bodies only."""

    __slots__ = ("head", "headers", "place", "url")

    def __init__(self, request: httpx2.Request) -> None:
        url = request.url
        secure = url.scheme == "https"
        self.url = URL(str(url), encoded=True)
        self.place = Place(url.raw_host.decode("ascii"), url.port or (443 if secure else 80), secure)
        headers = [
            (name, value) for name, value in request.headers.multi_items() if name.lower() not in _OF_THE_BODY
        ]
        self.headers = CIMultiDict(headers)
        lines = [f"{name}: {value}".encode("latin-1") for name, value in headers]
        self.head = b"".join(b"%b\r\n" % line for line in (b"POST %b HTTP/1.1" % url.raw_path, *lines))


class Refused(Exception):
    """An HTTP status that is none of success. It looks like an SDK's error; its text says nothing."""

    def __init__(self, response: "Answer | aiohttp.ClientResponse", body: object) -> None:
        super().__init__()
        self.status_code = response.status
        self.response = response
        self.body = body


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Sends httpx2's requests by aiohttp, and envelopes by our own connections where no proxy is in between.

    The SDKs bring such a transport too, but theirs parts from a response that is not whole by a TLS
    shutdown, for whose answer it waits 30 seconds: a stopped reply would be written, and billed, on.
    """

    def __init__(self, ssl_context: SSLContext | None = None) -> None:
        """By default the certificates are trusted that httpx2 trusts."""
        self._ssl_context = ssl_context or httpx2.create_ssl_context()
        self._proxies: dict[str, str | None] = {}
        self._session: aiohttp.ClientSession | None = None
        self._wires = Wires(self._ssl_context)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request, and return the response before its body has come; raises aiohttp's errors."""
        response = await self._send(
            request.method,
            URL(str(request.url), encoded=True),
            self._proxy_of(request.url.scheme, request.url.host),
            request.headers.multi_items(),
            request.content,
        )
        stream = _Stream(response)
        return httpx2.Response(
            response.status,
            headers=response.raw_headers,
            stream=stream,
            request=request,
            extensions={_SOURCE: stream},
        )

    async def post(self, envelope: Envelope, body: bytes) -> Opened:
        """Send a body in an envelope; raises `Refused`, and the errors of whoever sent it."""
        proxy = self._proxy_of("https" if envelope.place.secure else "http", envelope.place.host)
        response: Answer | aiohttp.ClientResponse
        if proxy is None:
            response = await self._wires.post(envelope.place, envelope.head, body)
            source: Source = response
        else:
            response = await self._send("POST", envelope.url, proxy, envelope.headers, body)
            source = _Stream(response)
        if 200 <= response.status < 300:
            return Opened(response.headers.get("content-type", ""), source)
        try:
            said = await _json_of(source)
        finally:
            response.close()
        raise Refused(response, said)

    async def _send(
        self,
        method: str,
        url: URL,
        proxy: str | None,
        headers: "CIMultiDict[str] | list[tuple[str, str]]",
        body: bytes,
    ) -> aiohttp.ClientResponse:
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
        return await self._session.request(
            method, url, proxy=proxy, headers=headers, data=body, allow_redirects=False
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
        await self._wires.close()
        if self._session is not None:
            await self._session.close()


async def _json_of(source: Source) -> object:
    """Return the JSON of an error, or None where it is none."""
    said = b""
    try:
        while part := await source.read():
            said += part
            if len(said) > _ERROR_BYTES:
                return None
        found: object = from_json(said)
    except (aiohttp.ClientError, HttpParserError, OSError, ValueError, RecursionError):
        return None
    return found


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
        # Returns what has arrived, once there is any; nothing at the end. Raises aiohttp's errors.
        self.read = response.content.readany

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data

    async def aclose(self) -> None:
        self._response.close()
