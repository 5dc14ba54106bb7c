"""Replies that were kept elsewhere, because the store did not take them in time."""

import logging

from parley.domain.conversation import Reply
from parley.domain.errors import NotFound, StoreUnavailable
from parley.domain.ports import Store
from parley.domain.results import Saved


async def save_parked_reply(
    store: Store, session_id: str, reply: Reply, source: str, log: logging.Logger
) -> bool:
    """Store a reply that was kept elsewhere, and tell whether that was wanted; raises `StoreUnavailable`."""
    try:
        return isinstance(await store.finish(session_id, reply, source), Saved)
    except StoreUnavailable:
        raise
    except NotFound:
        pass  # a session that is gone took its reply's place along; nobody can ask for it any more
    except Exception:
        # One that no store will ever take must not stand before all that comes after it.
        log.exception("reply_refused")
    return False
