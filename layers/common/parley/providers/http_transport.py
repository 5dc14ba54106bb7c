"""How questions reach the network: under the SDK the first one, those after it by themselves.

Imported only when a question is first asked, since it loads all that is needed for that.
"""

import re
from collections.abc import AsyncIterator
from contextlib import suppress
from ssl import SSLContext
from urllib.request import getproxies, proxy_bypass

import httpx2
from httptools import HttpParserError

from parley.providers.http_connection import CONNECT_SECONDS, KEEPALIVE_SECONDS, ConnectionPool, Origin
from parley.providers.http_response import Answer
from parley.providers.response_body import ByteStream, Opened
from parley.support.encoding import json_of_any_bytes

# What a body decides about its headers.
_OF_THE_BODY = (b"content-length", b"transfer-encoding")
_CONTROLS = re.compile(rb"[\r\n\0]")
_PROXY_LIMITS = httpx2.Limits(max_connections=None, keepalive_expiry=KEEPALIVE_SECONDS)
_PROXY_TIMEOUT = {"timeout": {"connect": CONNECT_SECONDS}}
# The extension of a response by which its bytes are read as they arrived, and which outlives it: httpx2 would
# pass each lump through four generators, and keep the request for as long.
_SOURCE = "parley.source"
_ABOUT_RETRIES = ("retry-after", "retry-after-ms", "x-should-retry")
# An error that says more is none of a provider's.
_ERROR_BYTES = 1 << 16


def http_client(transport: "ProviderTransport") -> httpx2.AsyncClient:
    """Return a client that waits as long as its caller, and that takes a prompt nowhere else."""
    return httpx2.AsyncClient(transport=transport, timeout=None, follow_redirects=False)


def opened(answer: Answer | httpx2.Response) -> Opened:
    """Return how an answer, or a response of `http_client`, is read."""
    source = answer if isinstance(answer, Answer) else answer.extensions[_SOURCE]
    headers = answer.headers
    said = {name: headers[name] for name in _ABOUT_RETRIES if name in headers}
    return Opened(headers.get("content-type", ""), source, said)


class RequestTemplate:
    """Where a request went, and with which headers, for others that differ in their bodies only."""

    __slots__ = ("head", "headers", "method", "origin", "url")

    def __init__(self, request: httpx2.Request) -> None:
        url = self.url = request.url
        secure = url.scheme == "https"
        self.method = request.method
        self.origin = Origin(url.raw_host.decode("ascii"), url.port or (443 if secure else 80), secure)
        self.headers = [header for header in request.headers.raw if header[0].lower() not in _OF_THE_BODY]
        lines = [b"%b %b HTTP/1.1" % (request.method.encode("ascii"), url.raw_path)]
        lines += [b"%b: %b" % header for header in self.headers]
        if any(_CONTROLS.search(line) for line in lines):
            # It would end its line, and say more than it may; without a quote, for it may be a key.
            raise ValueError("a header with a control character")
        self.head = b"".join(b"%b\r\n" % line for line in lines)


class StatusError(Exception):
    """An HTTP status that is none of success. It looks like an SDK's error; its text says nothing."""

    def __init__(self, response: Answer | httpx2.Response, body: object) -> None:
        super().__init__()
        self.status_code = response.status_code
        self.response = response
        self.body = body


class ProviderTransport(httpx2.AsyncBaseTransport):
    """Sends an SDK's requests, and bodies in envelopes, over our own connections.

    Where the environment names a proxy, httpx2's own go through it: they know how, and are slower.
    """

    def __init__(self, ssl_context: SSLContext | None = None) -> None:
        """By default the certificates are trusted that httpx2 trusts."""
        self._ssl_context = ssl_context or httpx2.create_ssl_context()
        self._pool = ConnectionPool(self._ssl_context)
        self._proxies: dict[tuple[str, str], httpx2.AsyncHTTPTransport | None] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request, and return the response before its body has come; raises as `post` does."""
        answer = await self._send(RequestTemplate(request), request.content)
        if isinstance(answer, httpx2.Response):
            return answer
        return httpx2.Response(
            answer.status_code,
            headers=answer.headers,
            stream=_Stream(answer),
            request=request,
            extensions={_SOURCE: answer},
        )

    async def post(self, template: RequestTemplate, body: bytes) -> Opened:
        """Send a body; raises `StatusError`, `OSError`, and the errors of whoever sent it."""
        answer = await self._send(template, body)
        found = opened(answer)
        if 200 <= answer.status_code < 300:
            if isinstance(answer, Answer):
                answer.headers = {}  # a kilobyte, as long as the answer takes
            return found
        try:
            said = await _said_by(found.source)
        finally:
            await found.source.aclose()
        raise StatusError(answer, said)

    async def _send(self, template: RequestTemplate, body: bytes) -> Answer | httpx2.Response:
        proxied = self._proxied(template)
        if proxied is None:
            return await self._pool.send(template.origin, template.head, body)
        request = httpx2.Request(template.method, template.url, headers=template.headers, content=body)
        request.extensions = _PROXY_TIMEOUT
        response = await proxied.handle_async_request(request)
        response.extensions[_SOURCE] = _Proxied(response)
        return response

    def _proxied(self, template: RequestTemplate) -> httpx2.AsyncHTTPTransport | None:
        """Return the way through the proxy that the environment names for a host, if it names one."""
        scheme, host = template.url.scheme, template.url.host
        if (scheme, host) not in self._proxies:
            proxy = None if proxy_bypass(host) else getproxies().get(scheme)
            if proxy and "://" not in proxy:
                proxy = f"http://{proxy}"
            self._proxies[scheme, host] = (
                httpx2.AsyncHTTPTransport(verify=self._ssl_context, proxy=proxy, limits=_PROXY_LIMITS)
                if proxy
                else None
            )
        return self._proxies[scheme, host]

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.close()
        for proxied in self._proxies.values():
            if proxied is not None:
                await proxied.aclose()


async def _said_by(source: ByteStream) -> object:
    """Return the JSON of an error, or its text where it is none; as much of it as says what happened."""
    said = b""
    with suppress(httpx2.HTTPError, HttpParserError, OSError):
        while len(said) < _ERROR_BYTES and (part := await source.read()):
            said += part
    try:
        found: object = json_of_any_bytes(said)
    except ValueError:
        return said[:_ERROR_BYTES].decode("utf-8", "replace")
    return found


class _Stream(httpx2.AsyncByteStream):
    """An answer's bytes as httpx2 takes them."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self._answer.read():
            yield data

    async def aclose(self) -> None:
        await self._answer.aclose()


class _Proxied:
    """What httpx2 received, as a source."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self._bytes = response.aiter_raw()

    async def read(self) -> bytes:
        """Return what has arrived, once there is any; nothing at the end. Raises httpx2's errors."""
        return await anext(self._bytes, b"")

    async def aclose(self) -> None:
        await self._response.aclose()
