"""Sends requests to providers: the first one from the SDK, later ones from its template.

The module loads httpx2, so it is imported only when the first request is made.
"""

import re
from collections.abc import AsyncIterator
from contextlib import suppress
from ssl import SSLContext
from urllib.request import getproxies, proxy_bypass

import httpx2
from httptools import HttpParserError

from parley.providers.http_connection import CONNECT_SECONDS, KEEPALIVE_SECONDS, ConnectionPool, Origin
from parley.providers.http_response import Response
from parley.providers.response_body import ByteStream, Opened
from parley.support.encoding import json_of_any_bytes

# The headers that a body determines (RFC 9112, 6).
_OF_THE_BODY = (b"content-length", b"transfer-encoding")
_CONTROLS = re.compile(rb"[\r\n\0]")
_PROXY_LIMITS = httpx2.Limits(max_connections=None, keepalive_expiry=KEEPALIVE_SECONDS)
_PROXY_TIMEOUT = {"timeout": {"connect": CONNECT_SECONDS}}
# The response extension that holds the stream of raw bytes. That stream is read without httpx2, which would
# pass each read through four generators and keep the request alive until the end.
_SOURCE = "parley.source"
_ABOUT_RETRIES = ("retry-after", "retry-after-ms", "x-should-retry")
# Bytes of an error's body that are read. No provider's errors are longer.
_ERROR_BYTES = 1 << 16


def http_client(transport: "ProviderTransport") -> httpx2.AsyncClient:
    """Return a client without timeouts and redirects.

    Deadlines are the caller's. A redirect could take a prompt to another server.
    """
    return httpx2.AsyncClient(transport=transport, timeout=None, follow_redirects=False)


def opened(response: Response | httpx2.Response) -> Opened:
    """Return the `Opened` of a response, which comes from `ConnectionPool` or `http_client`."""
    source = response if isinstance(response, Response) else response.extensions[_SOURCE]
    headers = response.headers
    said = {name: headers[name] for name in _ABOUT_RETRIES if name in headers}
    return Opened(headers.get("content-type", ""), source, said)


class RequestTemplate:
    """A request without its body: its method, URL and headers, for later requests to the same path.

    Raises `ValueError` for a header that could not be sent.
    """

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
            # A line end in a value would end the header and could add others (RFC 9110, 5.5). The error does
            # not quote the header, which may be a key.
            raise ValueError("a header with a control character")
        self.head = b"".join(b"%b\r\n" % line for line in lines)


class StatusError(Exception):
    """A non-2xx response. Has the attributes of the SDKs' status errors; str() is empty, so no key leaks."""

    def __init__(self, response: Response | httpx2.Response, body: object) -> None:
        super().__init__()
        self.status_code = response.status_code
        self.response = response
        self.body = body


class ProviderTransport(httpx2.AsyncBaseTransport):
    """Sends the SDK's requests, and bodies in templates, over our own connections.

    httpx2's own transport serves a scheme and host for which the environment names a proxy. It is slower.
    """

    def __init__(self, ssl_context: SSLContext | None = None) -> None:
        """Without `ssl_context`, httpx2's certificate authorities are trusted."""
        self._ssl_context = ssl_context or httpx2.create_ssl_context()
        self._pool = ConnectionPool(self._ssl_context)
        self._proxies: dict[tuple[str, str], httpx2.AsyncHTTPTransport | None] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request, and return the response before its body. Raises as `post`, but no `StatusError`."""
        response = await self._send(RequestTemplate(request), request.content)
        if isinstance(response, httpx2.Response):
            return response
        return httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=_Stream(response),
            request=request,
            extensions={_SOURCE: response},
        )

    async def post(self, template: RequestTemplate, body: bytes) -> Opened:
        """Send a body, and return the response before its body.

        Raises `StatusError` for a non-2xx response, and the errors of `ConnectionPool.send`; behind a proxy,
        httpx2's.
        """
        response = await self._send(template, body)
        found = opened(response)
        if 200 <= response.status_code < 300:
            if isinstance(response, Response):
                response.headers = {}  # a kilobyte that would live as long as the stream
            return found
        try:
            said = await _error_body(found.source)
        finally:
            await found.source.aclose()
        raise StatusError(response, said)

    async def _send(self, template: RequestTemplate, body: bytes) -> Response | httpx2.Response:
        proxied = self._proxied(template)
        if proxied is None:
            return await self._pool.send(template.origin, template.head, body)
        request = httpx2.Request(template.method, template.url, headers=template.headers, content=body)
        request.extensions = _PROXY_TIMEOUT
        response = await proxied.handle_async_request(request)
        response.extensions[_SOURCE] = _Proxied(response)
        return response

    def _proxied(self, template: RequestTemplate) -> httpx2.AsyncHTTPTransport | None:
        """Return httpx2's transport through the proxy that the environment names for a host, or None."""
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


async def _error_body(source: ByteStream) -> object:
    """Return an error's JSON, or its text where it is not JSON. Reads `_ERROR_BYTES` or a few more."""
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
    """A response's body in the form that httpx2 takes."""

    def __init__(self, response: Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self._response.read():
            yield data

    async def aclose(self) -> None:
        await self._response.aclose()


class _Proxied:
    """A response of httpx2 as a `ByteStream`."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self._bytes = response.aiter_raw()

    async def read(self) -> bytes:
        """Return the next bytes, b"" at the end of the body. Raises httpx2's errors."""
        return await anext(self._bytes, b"")

    async def aclose(self) -> None:
        await self._response.aclose()
