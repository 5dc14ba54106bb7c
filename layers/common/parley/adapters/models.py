"""All the models that this installation can ask."""

from collections.abc import Callable

from parley.adapters.anthropic import AnthropicModel
from parley.adapters.demo import DemoModel
from parley.adapters.faults import fault
from parley.adapters.openai import OpenAIModel
from parley.adapters.xai import XaiModel
from parley.errors import ProviderFault
from parley.ports import ChatModel
from parley.settings import Settings

_OPENAI_URL = "https://api.openai.com/v1"


class ConfiguredModels:
    """The providers that the settings have a key for; each adapter is made when it is first asked for."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._models: dict[str, ChatModel] = {}

    def of(self, provider: str) -> ChatModel:
        """Return the adapter of `provider`; raises `ProviderFault` where there is no key for it."""
        model = self._models.get(provider)
        if model is None:
            if provider not in _ADAPTERS:
                raise ProviderFault(
                    "model_not_configured", "This installation does not know the model's provider."
                )
            _, make = _ADAPTERS[provider]
            model = self._models[provider] = make(self._settings)
        return model

    def version(self, provider: str) -> str:
        """Return the name and version of the adapter of `provider`, whether there is a key for it or not."""
        version, _ = _ADAPTERS.get(provider, ("", None))
        return version

    def has(self, provider: str) -> bool:
        """Return whether `of` finds an adapter."""
        try:
            self.of(provider)
        except ProviderFault:
            return False
        return True

    async def close(self) -> None:
        """Close idle connections."""
        for model in self._models.values():
            await model.close()


def _openai(settings: Settings) -> ChatModel:
    compatible = settings.openai_base_url.rstrip("/") != _OPENAI_URL
    key = _key("OpenAI", settings.openai_api_key, optional=compatible)
    return OpenAIModel(api_key=key, base_url=settings.openai_base_url)


def _anthropic(settings: Settings) -> ChatModel:
    key = _key("Anthropic", settings.anthropic_api_key)
    return AnthropicModel(api_key=key, base_url=settings.anthropic_base_url)


def _xai(settings: Settings) -> ChatModel:
    return XaiModel(api_key=_key("xAI", settings.xai_api_key), base_url=settings.xai_base_url)


def _demo(settings: Settings) -> ChatModel:
    if not settings.demo_model:
        raise ProviderFault("model_not_configured", "The demo model is not switched on in this installation.")
    return DemoModel(settings.demo_tokens_per_second)


# The version of each provider's adapter, and what makes it.
_ADAPTERS: dict[str, tuple[str, Callable[[Settings], ChatModel]]] = {
    "openai": (OpenAIModel.version, _openai),
    "anthropic": (AnthropicModel.version, _anthropic),
    "xai": (XaiModel.version, _xai),
    "demo": (DemoModel.version, _demo),
}


def _key(title: str, key: str, *, optional: bool = False) -> str:
    """Return a key without the line end that a secret's file leaves on it."""
    key = key.strip()
    if not key and not optional:
        raise fault(title, "model_not_configured")
    if not (key.isascii() and key.isprintable()):
        # It could not become a header, and the error that says so would quote it.
        raise fault(title, "provider_auth")
    return key
