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
from parley.streaming.parked_replies import save_parked_reply
from parley.support.logs import logger

_logger = logger("purge")
# A reader may take over an orphan by itself. The purge waits this long for one.
_GRACE_SECONDS = ORPHANED_AFTER.total_seconds()


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
    ago. Raises `StoreUnavailable`.
    """
    done = Purged(
        parked_saved=await _save_parked(store, log, batch),
        orphans_ended=await _end_orphans(store, log, batch, grace_seconds),
        sessions_expired=await _until_done(store.expire_sessions, batch),
        sessions_deleted=await _until_done(store.purge_sessions, batch),
        chats_deleted=await _purge_chats(store, batch, retention_days),
    )
    _logger.info("purged", extra=done.counts())
    return done


async def _save_parked(store: Store, log: Log, batch: int) -> int:
    saved = 0
    with contextlib.suppress(LogUnavailable):
        for session_id, reply, source in await log.parked(batch):
            saved += await save_parked_reply(store, session_id, reply, source, _logger)
            # Unpark after the save: a crash in between only saves the reply again, which changes nothing.
            await log.unpark(session_id)
    return saved


async def _end_orphans(store: Store, log: Log, batch: int, grace_seconds: float) -> int:
    ended = 0
    for orphan in await store.orphans(grace_seconds, batch):
        ended += await save_parked_reply(
            store, orphan.session_id, await _recovered(log, orphan), "provider", _logger
        )
    return ended


async def _recovered(log: Log, orphan: Orphan) -> Reply:
    text = ""
    end: End | None = None
    if orphan.generation_key is not None:
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
