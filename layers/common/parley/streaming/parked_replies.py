"""Saves parked replies: those that the store did not take in time."""

import contextlib
import logging

from parley.domain.conversation import Reply
from parley.domain.errors import LogUnavailable, NotFound, StoreUnavailable
from parley.domain.ports import Log, Store
from parley.domain.results import Ended, Overtaken, Saved


async def save_parked_reply(
    store: Store, session_id: str, reply: Reply, source: str, logger: logging.Logger
) -> bool:
    """Save a parked reply, and return whether the store took it. Raises `StoreUnavailable`.

    The caller unparks it afterwards, whatever the outcome: a crash in between only saves it again, which
    changes nothing. Where another reply has its place, a line tells so. A missing session is one without.
    """
    outcome = await _finish(store, session_id, reply, source, logger)
    if _overtakes(outcome, reply):
        logger.warning("parked_reply_overtaken", extra={"epoch": reply.epoch})
    return isinstance(outcome, Saved)


async def save_parked_of(store: Store, log: Log, session_id: str, logger: logging.Logger) -> bool:
    """Save and unpark the session's parked reply, if one is, and return whether the store took it.

    Raises `StoreUnavailable`, and `LogUnavailable` where the log cannot tell.
    """
    parked = await log.parked_of(session_id)
    if parked is None:
        return False
    saved = await save_parked_reply(store, session_id, *parked, logger)
    with contextlib.suppress(LogUnavailable):
        await log.unpark(session_id)
    return saved


async def save_recovered_reply(
    store: Store, session_id: str, reply: Reply, source: str, logger: logging.Logger
) -> bool:
    """Save what a log has of an orphan's reply, and return whether the store took it.

    Raises `StoreUnavailable`.
    """
    return isinstance(await _finish(store, session_id, reply, source, logger), Saved)


def _overtakes(outcome: Saved | Overtaken | Ended | None, reply: Reply) -> bool:
    """Tell whether another reply has the place of this one: a later epoch's, or one that was saved."""
    if isinstance(outcome, Ended):
        return (outcome.reply.text, outcome.reply.status) != (reply.text, reply.status)
    return isinstance(outcome, Overtaken)


async def _finish(
    store: Store, session_id: str, reply: Reply, source: str, logger: logging.Logger
) -> Saved | Overtaken | Ended | None:
    """Return the outcome of the save, or None where no save will ever succeed."""
    try:
        return await store.finish(session_id, reply, source)
    except StoreUnavailable:
        raise
    except NotFound:
        pass  # the session was deleted with its message, so no client can ask for the reply
    except Exception:
        # A reply that no store will ever take must not block the replies after it.
        logger.exception("reply_refused")
    return None
