"""The model adapter for OpenAI, and for every server with its chat completions API."""

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from parley.domain.errors import ProviderFault
from parley.domain.events import ModelEvent
from parley.domain.ports import ModelRequest
from parley.providers.chat_completion import ChatCompletionParser
from parley.providers.errors import fault_of_status
from parley.providers.event_stream import stream
from parley.providers.request_fields import RequestFields
from parley.providers.response_body import Opened
from parley.providers.sdk_client import SdkClient, error_status
from parley.providers.server import title_of_server

if TYPE_CHECKING:
    import httpx2
    import openai


class OpenAIModel:
    """Sends requests with OpenAI's SDK, and parses the response's bytes itself.

    The SDK's stream objects report a cut reply as a complete one, and cost several times the work.
    """

    version = "openai/2"

    def __init__(self, *, api_key: str, base_url: str) -> None:
        self._api_key = api_key
        self._base_url = base_url
        self._title = title_of_server(base_url)
        self._fields = RequestFields(base_url)
        self._sdk = SdkClient(self._make_client)

    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Send one request; see `ports.ChatModel.stream`."""

        async def open_response() -> Opened:
            return await self._fields.post(
                request.model, lambda fields: self._sdk.post("/chat/completions", _body(request, fields))
            )

        return stream(self._title, ChatCompletionParser(self._title), open_response, self._fault_of)

    async def close(self) -> None:
        """Close idle connections."""
        await self._sdk.close()

    def _make_client(self, http_client: "httpx2.AsyncClient") -> "openai.AsyncOpenAI":
        import openai  # noqa: PLC0415

        return openai.AsyncOpenAI(
            api_key=self._api_key or "none",  # a compatible server may need no key, but the SDK does
            base_url=self._base_url,
            max_retries=0,
            timeout=None,
            http_client=http_client,
        )

    def _fault_of(self, error: Exception) -> ProviderFault | None:
        found = error_status(error)
        return found and fault_of_status(self._title, found.status, found.headers, found.body)


def _body(request: ModelRequest, fields: dict[str, object]) -> dict[str, object]:
    model = request.model
    messages = [{"role": "system", "content": model.system_prompt}] if model.system_prompt else []
    messages += [{"role": turn.role.value, "content": turn.text} for turn in request.turns]
    return {**fields, **model.parameters, "model": model.name, "messages": messages, "stream": True}
