"""Names generations by keys that follow this installation's secret and sharing rule."""

from collections.abc import Sequence

from parley.domain.conversation import Model, Turn
from parley.domain.ports import ChatModels
from parley.domain.prompt import generation_key


class GenerationKeys:
    """Makes the keys of generations. Processes with the same secret make the same keys.

    `share_context_free` lets users share the reply to a question without context.
    """

    def __init__(self, models: ChatModels, secret: bytes, *, share_context_free: bool) -> None:
        self._models = models
        self._secret = secret
        self._share_context_free = share_context_free

    def key_for(self, model: Model, turns: Sequence[Turn], user_id: str, bypass: str | None = None) -> str:
        """Return the key of a question with normalised and trimmed turns; see `prompt.generation_key`."""
        return generation_key(
            self._secret,
            model=model,
            adapter=self._models.version(model.provider),
            turns=turns,
            user_id=user_id,
            share_context_free=self._share_context_free,
            bypass=bypass,
        )
