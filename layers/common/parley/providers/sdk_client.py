"""Loads a provider's SDK, sends requests by it, and reads the status errors of all SDKs."""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from parley.providers.response_body import Opened
from parley.support.encoding import to_json
from parley.support.gc_tuning import freeze_startup_objects

if TYPE_CHECKING:
    import anthropic
    import httpx2
    import openai

    from parley.providers.http_transport import ProviderTransport, RequestTemplate

    Client = openai.AsyncOpenAI | anthropic.AsyncAnthropic

# A compressor would hold bytes back, and tokens would come late and together.
_HEADERS = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


class ErrorStatus(NamedTuple):
    """A non-2xx response: its status, its headers and its body as JSON or text."""

    status: int
    headers: Mapping[str, str]
    body: Any


class SdkClient:
    """An SDK's client, made for the first request.

    A thread loads the SDK: that takes seconds on a small machine, and other streams must go on. The SDK sends
    the first request to each path. Later requests differ only in their bodies, so they use a template of the
    first one. This saves the third of a millisecond that the SDK takes to build a request.
    """

    def __init__(self, make: "Callable[[httpx2.AsyncClient], Client]") -> None:
        self._make = make
        self._making = asyncio.Lock()
        self._client: Client | None = None
        self._transport: ProviderTransport | None = None
        self._templates: dict[str, RequestTemplate] = {}

    async def post(self, path: str, body: dict[str, object]) -> Opened:
        """Send a request, and return the response before its body. Raises the SDK's or transport's errors."""
        template = self._templates.get(path)
        if template is not None and self._transport is not None:
            return await self._transport.post(template, to_json(body))
        async with self._making:
            if self._client is None:
                self._client = await asyncio.to_thread(self._load)
        import httpx2  # noqa: PLC0415

        from parley.providers.http_transport import RequestTemplate, opened  # noqa: PLC0415

        streamed: bool = True
        response = await self._client.post(
            path, cast_to=httpx2.Response, body=body, options={"headers": _HEADERS}, stream=streamed
        )
        self._templates[path] = RequestTemplate(response.request)
        return opened(response)

    async def close(self) -> None:
        """Close the client, if there is one."""
        client, self._client, self._transport = self._client, None, None
        if client is not None:
            await client.close()

    def _load(self) -> "Client":
        from parley.providers.http_transport import ProviderTransport, http_client  # noqa: PLC0415

        self._transport = ProviderTransport()
        client = self._make(http_client(self._transport))
        for name in ("openai", "anthropic", "httpx2", "httpcore2"):
            # The SDKs' own environment variables can set DEBUG, and then these loggers write whole requests.
            logging.getLogger(name).setLevel(logging.WARNING)
        freeze_startup_objects()
        return client


def error_status(error: Exception) -> ErrorStatus | None:
    """Return the response of a status error, of an SDK or of the transport; None for any other exception."""
    # Read by attribute. An `isinstance` would need the SDKs' classes, and loading those takes seconds.
    status, response = getattr(error, "status_code", None), getattr(error, "response", None)
    if not isinstance(status, int) or response is None:
        return None
    return ErrorStatus(status, response.headers, getattr(error, "body", None))


def own_word(word: str) -> str:
    """Return the provider's own finish reason if it is one word of up to 64 characters, else `other`."""
    return word if _WORD.fullmatch(word) else "other"
