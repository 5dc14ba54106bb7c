"""xAI, which speaks OpenAI's chat completions."""

from typing import TYPE_CHECKING

from parley.providers.openai import OpenAIModel

if TYPE_CHECKING:
    import httpx2
    import openai


class XaiModel(OpenAIModel):
    """Asks xAI."""

    version = "xai/2"

    def _make_client(self, http_client: "httpx2.AsyncClient") -> "openai.AsyncOpenAI":
        client = super()._make_client(http_client)
        # OPENAI_ORG_ID, OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS are for OpenAI; its SDK sends them to
        # anybody.
        client.organization = client.project = None
        client._custom_headers = {}
        return client
