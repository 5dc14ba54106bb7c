"""What the providers' SDKs have in common: how they are loaded and asked, and what their errors say."""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from parley.collector import spare_what_is_loaded

if TYPE_CHECKING:
    import anthropic
    import httpx2
    import openai

    Client = openai.AsyncOpenAI | anthropic.AsyncAnthropic

# A compressed stream would come in lumps of the compressor's choosing.
_HEADERS = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


class Refusal(NamedTuple):
    """An HTTP error as an SDK reports it."""

    status: int
    headers: Mapping[str, str]
    body: Any


class Sdk:
    """An SDK's client, made when it is first needed.

    Loading an SDK takes seconds on a small machine, so a thread does it: other streams go on meanwhile.
    """

    def __init__(self, make: "Callable[[httpx2.AsyncClient], Client]") -> None:
        self._make = make
        self._making = asyncio.Lock()
        self._client: Client | None = None

    async def post(self, path: str, body: dict[str, object]) -> "httpx2.Response":
        """Ask, and return the response before its body has come."""
        async with self._making:
            if self._client is None:
                self._client = await asyncio.to_thread(self._load)
        import httpx2  # noqa: PLC0415

        streamed: bool = True
        return await self._client.post(
            path, cast_to=httpx2.Response, body=body, options={"headers": _HEADERS}, stream=streamed
        )

    async def close(self) -> None:
        """Close the client, if there is one."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _load(self) -> "Client":
        from parley.adapters.transport import http_client  # noqa: PLC0415

        client = self._make(http_client())
        for name in ("openai", "anthropic", "httpx2", "httpcore2"):
            # At DEBUG, which the SDKs' own variables turn on, they write whole requests.
            logging.getLogger(name).setLevel(logging.WARNING)
        spare_what_is_loaded()
        return client


def refusal(error: Exception) -> Refusal | None:
    """Return what an SDK's status error says; None for any other exception."""
    # Both SDKs' errors have these, and to import their classes here would load the SDKs.
    status, response = getattr(error, "status_code", None), getattr(error, "response", None)
    if not isinstance(status, int) or response is None:
        return None
    return Refusal(status, response.headers, getattr(error, "body", None))


def own_word(word: str) -> str:
    """Return a provider's own word for the end of a reply, if it is a word, else `other`."""
    return word if _WORD.fullmatch(word) else "other"
