"""Finds replies in the cache before their sessions open, which spares each session a second transaction."""

from msgspec.structs import replace

from parley.domain.conversation import CatalogueEntry, NewSession, Role, Started, Turn
from parley.domain.errors import LogUnavailable
from parley.domain.ports import Log
from parley.streaming.generation_keys import GenerationKeys


class CachedReplies:
    """Finds the cached reply to the question of a new chat.

    A question's key includes its model. The store returns the current model whenever a session opens with a
    version of it that this process did not know.
    """

    def __init__(self, log: Log, keys: GenerationKeys) -> None:
        self._log = log
        self._keys = keys
        self._catalogue: dict[str, CatalogueEntry] = {}

    async def attach_to(self, new_session: NewSession) -> NewSession:
        """Return the new session with the model's version and the cached reply, as far as they are known.

        An unavailable log counts as no cached reply.
        """
        entry = self._catalogue.get(new_session.model_id)
        # A question in a chat has context, which is read with the session and not before.
        if entry is None or new_session.prompt is None or not new_session.context_free:
            return new_session
        key = self._keys.key_for(entry.model, (Turn(Role.USER, new_session.prompt),), new_session.user_id)
        try:
            reply = await self._log.cached(key)
        except LogUnavailable:
            reply = None
        return replace(new_session, model_version=entry.version, answer=reply)

    def remember_model(self, started: Started) -> None:
        """Remember the model that an opened session came with."""
        if started.model is not None:
            self._catalogue[started.model.model.id] = started.model
