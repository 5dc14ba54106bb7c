"""Replies that are known before their sessions are opened, which spares each of them a second transaction."""

from msgspec.structs import replace

from parley.domain.conversation import CatalogueEntry, Order, Role, Started, Turn
from parley.domain.errors import LogUnavailable
from parley.domain.ports import Log
from parley.streaming.generation_keys import GenerationKeys


class Answers:
    """Finds the cached reply to a new chat's question.

    The question's key takes the model as it is, which the store tells whenever a session is opened with
    another version of it than this process knew.
    """

    def __init__(self, log: Log, keys: GenerationKeys) -> None:
        self._log = log
        self._keys = keys
        self._catalogue: dict[str, CatalogueEntry] = {}

    async def added_to(self, order: Order) -> Order:
        """Return the order with its answer, where the log keeps one; without a log, as it was."""
        entry = self._catalogue.get(order.model_id)
        if entry is None or order.prompt is None or not order.context_free:
            return order
        key = self._keys.of(entry.model, (Turn(Role.USER, order.prompt),), order.user_id)
        try:
            answer = await self._log.cached(key)
        except LogUnavailable:
            answer = None
        return replace(order, model_version=entry.version, answer=answer)

    def learn(self, started: Started) -> None:
        """Remember the model that an opened session tells of."""
        if started.model is not None:
            self._catalogue[started.model.model.id] = started.model
