"""The model adapter for xAI, which has OpenAI's chat completions API."""

from typing import TYPE_CHECKING

from parley.providers.openai import OpenAIModel

if TYPE_CHECKING:
    import httpx2
    import openai


class XaiModel(OpenAIModel):
    """OpenAI's adapter without the headers that are only for OpenAI."""

    version = "xai/2"

    def _make_client(self, http_client: "httpx2.AsyncClient") -> "openai.AsyncOpenAI":
        client = super()._make_client(http_client)
        # OpenAI's SDK reads OPENAI_ORG_ID, OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS, and sends them to any
        # server.
        client.organization = client.project = None
        client._custom_headers = {}
        return client
