"""Makes the model adapters of the providers that this installation has configured."""

from collections.abc import Callable
from typing import NamedTuple

from parley.domain.errors import ProviderFault
from parley.domain.ports import ChatModel
from parley.providers.anthropic import AnthropicModel
from parley.providers.demo import DemoModel
from parley.providers.errors import fault
from parley.providers.openai import OpenAIModel
from parley.providers.server import identity_of_server, title_of_server
from parley.providers.xai import XaiModel
from parley.settings import Settings

_OPENAI_URL = "https://api.openai.com/v1"


class ConfiguredModels:
    """The providers that the settings have a key for. Each adapter is made at its first `get`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._models: dict[str, ChatModel] = {}

    def get(self, provider: str) -> ChatModel:
        """Return the adapter of `provider`. Raises `ProviderFault` if it is unknown or has no key."""
        model = self._models.get(provider)
        if model is None:
            if provider not in _ADAPTERS:
                raise ProviderFault(
                    "model_not_configured", "This installation does not know the model's provider."
                )
            model = self._models[provider] = _ADAPTERS[provider].make(self._settings)
        return model

    def version(self, provider: str) -> str:
        """Return the version of the adapter of `provider` with its server, or "". Needs no key."""
        if provider not in _ADAPTERS:
            return ""
        adapter = _ADAPTERS[provider]
        server = adapter.base_url(self._settings)
        return adapter.version if server is None else f"{adapter.version} {identity_of_server(server)}"

    def has(self, provider: str) -> bool:
        """Return whether `get` returns an adapter."""
        try:
            self.get(provider)
        except ProviderFault:
            return False
        return True

    async def close(self) -> None:
        """Close idle connections."""
        for model in self._models.values():
            await model.close()


def _openai(settings: Settings) -> ChatModel:
    url = settings.openai_base_url
    key = _key(url, settings.openai_api_key, optional=url.rstrip("/") != _OPENAI_URL)
    return OpenAIModel(api_key=key, base_url=url)


def _anthropic(settings: Settings) -> ChatModel:
    url = settings.anthropic_base_url
    return AnthropicModel(api_key=_key(url, settings.anthropic_api_key), base_url=url)


def _xai(settings: Settings) -> ChatModel:
    url = settings.xai_base_url
    return XaiModel(api_key=_key(url, settings.xai_api_key), base_url=url)


def _demo(settings: Settings) -> ChatModel:
    if not settings.demo_model:
        raise ProviderFault("model_not_configured", "The demo model is not switched on in this installation.")
    return DemoModel(settings.demo_tokens_per_second)


class _Adapter(NamedTuple):
    """A provider's adapter: its factory, and its server's base URL; None for a model without a server."""

    version: str
    make: Callable[[Settings], ChatModel]
    base_url: Callable[[Settings], str | None]


_ADAPTERS = {
    "openai": _Adapter(OpenAIModel.version, _openai, lambda settings: settings.openai_base_url),
    "anthropic": _Adapter(AnthropicModel.version, _anthropic, lambda settings: settings.anthropic_base_url),
    "xai": _Adapter(XaiModel.version, _xai, lambda settings: settings.xai_base_url),
    "demo": _Adapter(DemoModel.version, _demo, lambda _: None),
}


def _key(base_url: str, key: str, *, optional: bool = False) -> str:
    """Return a key without the white space around it, such as the line end of a secret's file.

    Raises `ProviderFault` if the key is missing, unless it is `optional`, or cannot be sent.
    """
    title = title_of_server(base_url)
    key = key.strip()
    if not key and not optional:
        raise fault(title, "model_not_configured")
    if not (key.isascii() and key.isprintable()):
        # It could not be sent as a header, and the error that says so would quote it.
        raise fault(title, "provider_auth")
    return key
