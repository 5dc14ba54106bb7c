"""The model adapter for Anthropic's Messages API."""

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from parley.domain.errors import ProviderFault
from parley.domain.events import ModelEvent
from parley.domain.ports import ModelRequest
from parley.providers.errors import fault_of_status
from parley.providers.event_stream import stream
from parley.providers.messages import MessagesParser
from parley.providers.response_body import Opened
from parley.providers.sdk_client import SdkClient, error_status
from parley.providers.server import title_of_server

if TYPE_CHECKING:
    import anthropic
    import httpx2


class AnthropicModel:
    """Sends requests with Anthropic's SDK, and parses the response's bytes itself.

    The SDK's stream objects report a cut reply as a complete one, and cost several times the work.
    """

    version = "anthropic/2"

    def __init__(self, *, api_key: str, base_url: str) -> None:
        self._api_key = api_key
        self._base_url = base_url
        self._title = title_of_server(base_url)
        self._sdk = SdkClient(self._make_client)

    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Send one request; see `ports.ChatModel.stream`."""

        async def open_response() -> Opened:
            return await self._sdk.post("/v1/messages", _body(request))

        return stream(self._title, MessagesParser(self._title), open_response, self._fault_of)

    async def close(self) -> None:
        """Close idle connections."""
        await self._sdk.close()

    def _make_client(self, http_client: "httpx2.AsyncClient") -> "anthropic.AsyncAnthropic":
        import anthropic  # noqa: PLC0415

        return anthropic.AsyncAnthropic(
            api_key=self._api_key,
            base_url=self._base_url,
            max_retries=0,
            timeout=None,
            http_client=http_client,
            open_telemetry=False,  # its spans may hold prompts and replies
        )

    def _fault_of(self, error: Exception) -> ProviderFault | None:
        found = error_status(error)
        return found and fault_of_status(self._title, found.status, found.headers, found.body)


def _body(request: ModelRequest) -> dict[str, object]:
    model = request.model
    body: dict[str, object] = {
        **model.parameters,
        "model": model.name,
        "max_tokens": model.max_output_tokens,
        "messages": [{"role": turn.role.value, "content": turn.text} for turn in request.turns],
        "stream": True,
    }
    if model.system_prompt:
        body["system"] = model.system_prompt
    return body
