"""Saves parked replies: those that the store did not take in time."""

import logging

from parley.domain.conversation import Reply
from parley.domain.errors import NotFound, StoreUnavailable
from parley.domain.ports import Store
from parley.domain.results import Saved


async def save_parked_reply(
    store: Store, session_id: str, reply: Reply, source: str, logger: logging.Logger
) -> bool:
    """Save a parked reply, and return whether the store took it. Raises `StoreUnavailable`.

    An ended session, a later epoch or a missing session makes it False.
    """
    try:
        return isinstance(await store.finish(session_id, reply, source), Saved)
    except StoreUnavailable:
        raise
    except NotFound:
        pass  # the session was deleted with its message, so no client can ask for the reply
    except Exception:
        # A reply that no store will ever take must not block the replies after it.
        logger.exception("reply_refused")
    return False
