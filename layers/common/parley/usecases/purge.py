"""Runs the scheduled clean-up: saves parked replies, ends orphans, deletes what expired."""

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

from parley.domain.conversation import Reply
from parley.domain.errors import LogUnavailable
from parley.domain.events import Completed, End, Failed, FinishReason
from parley.domain.limits import ORPHANED_AFTER
from parley.domain.ports import Log, Store
from parley.domain.results import Orphan
from parley.streaming.parked_replies import save_parked_of, save_parked_reply, save_recovered_reply
from parley.support.logs import logger

_logger = logger("purge")
# A reader may take over an orphan by itself. The purge waits this long for one.
_GRACE_SECONDS = ORPHANED_AFTER.total_seconds()
# The most batches of parked replies in one run. The next run goes on.
_MOST_BATCHES = 10_000


@dataclass(frozen=True, slots=True)
class Purged:
    """Counts of one run of the purge."""

    parked_saved: int
    orphans_ended: int
    sessions_expired: int
    sessions_deleted: int
    chats_deleted: int

    def counts(self) -> dict[str, int]:
        """Return the counts by name."""
        return asdict(self)


async def purge(
    store: Store, log: Log, *, batch: int, retention_days: int, grace_seconds: float = _GRACE_SECONDS
) -> Purged:
    """Run the purge once and log its counts. It is idempotent, and safe beside other runs and beside streams.

    `batch` is rows in a step; `retention_days` 0 keeps all chats; an orphan's lease ran out `grace_seconds`
    ago. Where the log does not answer, nothing is ended whose reply may be parked. Raises `StoreUnavailable`.
    """
    parked_saved, none_left = await _save_parked(store, log, batch)
    done = Purged(
        parked_saved=parked_saved,
        orphans_ended=await _end_orphans(store, log, batch, grace_seconds),
        # A hit's reply may be parked for a session that no epoch has: it counts as one that nobody came for.
        sessions_expired=await _until_done(store.expire_sessions, batch) if none_left else 0,
        sessions_deleted=await _until_done(store.purge_sessions, batch),
        chats_deleted=await _purge_chats(store, batch, retention_days),
    )
    _logger.info("purged", extra=done.counts())
    return done


async def _save_parked(store: Store, log: Log, batch: int) -> tuple[int, bool]:
    """Save all parked replies. Return how many, and whether none is left, as far as the log answers."""
    saved = 0
    with contextlib.suppress(LogUnavailable):
        for _ in range(_MOST_BATCHES):
            found = await log.parked(batch)
            if not found:
                return saved, True
            for session_id, reply, source in found:
                saved += await save_parked_reply(store, session_id, reply, source, _logger)
                await log.unpark(session_id)
    return saved, False


async def _end_orphans(store: Store, log: Log, batch: int, grace_seconds: float) -> int:
    ended = 0
    for orphan in await store.orphans(grace_seconds, batch):
        try:
            ended += await _end_orphan(store, log, orphan)
        except LogUnavailable:
            # Its whole reply may be parked there. A later run comes to it.
            continue
    return ended


async def _end_orphan(store: Store, log: Log, orphan: Orphan) -> bool:
    reply = await _recovered(log, orphan)
    # The log may know no more than a part, or nothing, of a reply that was shown to its end.
    if await save_parked_of(store, log, orphan.session_id, _logger):
        return True
    return await save_recovered_reply(store, orphan.session_id, reply, "provider", _logger)


async def _recovered(log: Log, orphan: Orphan) -> Reply:
    text = ""
    end: End | None = None
    if orphan.generation_key is not None:
        # Where the log answers the next question, this generation alone cannot be read, and never will be.
        with contextlib.suppress(LogUnavailable):
            part = await log.read(orphan.generation_key, orphan.epoch, 0)
            text, end = part.text, part.end
    if end is None and orphan.stopping:
        end = Completed(FinishReason.STOPPED)
    if end is None:
        end = Failed("interrupted", "The server that wrote this reply went away.", retryable=True)
    return Reply(orphan.epoch, text, end)


async def _until_done(step: Callable[[int], Awaitable[int]], batch: int) -> int:
    total = 0
    while True:
        count = await step(batch)
        total += count
        if count < batch:
            return total


async def _purge_chats(store: Store, batch: int, retention_days: int) -> int:
    if retention_days <= 0:
        return 0

    async def step(limit: int) -> int:
        return await store.purge_chats(retention_days, limit)

    return await _until_done(step, batch)
