"""Replies that are known before their sessions are opened, which spares each of them a second transaction."""

from msgspec.structs import replace

from parley.domain.conversation import CatalogueEntry, NewSession, Role, Started, Turn
from parley.domain.errors import LogUnavailable
from parley.domain.ports import Log
from parley.streaming.generation_keys import GenerationKeys


class CachedReplies:
    """Finds the cached reply to a new chat's question.

    The question's key takes the model as it is, which the store tells whenever a session is opened with
    another version of it than this process knew.
    """

    def __init__(self, log: Log, keys: GenerationKeys) -> None:
        self._log = log
        self._keys = keys
        self._catalogue: dict[str, CatalogueEntry] = {}

    async def attach_to(self, new_session: NewSession) -> NewSession:
        """Return the order with its answer, where the log keeps one; without a log, as it was."""
        entry = self._catalogue.get(new_session.model_id)
        if entry is None or new_session.prompt is None or not new_session.context_free:
            return new_session
        key = self._keys.key_for(entry.model, (Turn(Role.USER, new_session.prompt),), new_session.user_id)
        try:
            answer = await self._log.cached(key)
        except LogUnavailable:
            answer = None
        return replace(new_session, model_version=entry.version, answer=answer)

    def remember_model(self, started: Started) -> None:
        """Remember the model that an opened session tells of."""
        if started.model is not None:
            self._catalogue[started.model.model.id] = started.model
