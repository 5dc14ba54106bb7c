"""xAI, which speaks OpenAI's chat completions."""

from parley.adapters.openai import OpenAIModel


class XaiModel(OpenAIModel):
    """Asks xAI."""

    version = "xai/1"

    def __init__(self, *, api_key: str, base_url: str) -> None:
        super().__init__(api_key=api_key, base_url=base_url, title="xAI")
