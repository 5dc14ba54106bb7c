"""Takes over a rotated key: fetches the keys again when a provider refuses one, or when one is missing."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from parley.domain.errors import ProviderFault, Unavailable
from parley.domain.events import ModelEvent, Ping
from parley.domain.ports import ChatModel, ModelRequest
from parley.providers.registry import ConfiguredModels
from parley.settings import Settings, SettingsError
from parley.support.logs import logger

_logger = logger("models")
_ABOUT_THE_KEY = ("provider_auth", "model_not_configured")
# Returns the current settings. Its argument is the settings whose key was refused.
Renew = Callable[[Settings], Awaitable[Settings]]


class RotatingModels:
    """The models that the settings have keys for. A rotated key takes effect without a new sandbox."""

    def __init__(self, settings: Settings, renew: Renew) -> None:
        self._settings = settings
        self._renew = renew
        self._models = ConfiguredModels(settings)
        self._before: list[ConfiguredModels] = []

    def get(self, provider: str) -> ChatModel:
        """Return the adapter of `provider`. A missing key is found only when the adapter is used."""
        return _RotatingModel(self, provider)

    def version(self, provider: str) -> str:
        """Return the adapter's version of `provider`; see `ConfiguredModels.version`."""
        return self._models.version(provider)

    def has(self, provider: str) -> bool:
        """Return whether `provider` has a key, as far as this sandbox knows."""
        return self._models.has(provider)

    @property
    def configured(self) -> ConfiguredModels:
        """The models with the newest keys."""
        return self._models

    async def renewed(self, refused: ConfiguredModels) -> bool:
        """Fetch the keys again, unless newer ones than `refused` are here. Return whether to try again."""
        if self._models is not refused:
            return True
        try:
            settings = await self._renew(self._settings)
        except (Unavailable, SettingsError) as error:
            _logger.warning("keys_not_renewed", extra={"error": type(error).__name__})
            return False
        # Another request may have renewed the keys during the `await`.
        if settings == self._settings or self._models is not refused:
            return self._models is not refused
        _logger.info("keys_renewed")
        # Streams in progress end with the adapters that they began with, so these stay open.
        self._before.append(self._models)
        self._settings, self._models = settings, ConfiguredModels(settings)
        return True

    async def close(self) -> None:
        """Close idle connections."""
        for models in (*self._before, self._models):
            await models.close()


class _RotatingModel:
    """A provider's adapter, with the newest key at each request."""

    def __init__(self, models: RotatingModels, provider: str) -> None:
        self._models = models
        self._provider = provider

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        asked = self._models.configured
        begun = False
        try:
            async with aclosing(asked.get(self._provider).stream(request)) as events:
                async for event in events:
                    begun = begun or not isinstance(event, Ping)
                    yield event
            return
        except ProviderFault as fault:
            # Once the reply has begun, a second request would repeat its text.
            if begun or fault.fault not in _ABOUT_THE_KEY or not await self._models.renewed(asked):
                raise
        async with aclosing(self._models.configured.get(self._provider).stream(request)) as events:
            async for event in events:
                yield event

    async def close(self) -> None:
        """Do nothing: `RotatingModels.close` closes the connections."""
