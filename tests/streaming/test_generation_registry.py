"""Runs that join generations, one at a time for a key."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from parley.domain.ports import ChatModels, Log, Store
from parley.domain.results import Wait
from parley.streaming.generation_registry import GenerationRegistry
from parley.streaming.session_run import SessionRun
from tests.in_memory import LIMITS


class CountingLog:
    """Answers a join after a turn of the event loop, and knows how many were under way at once."""

    def __init__(self) -> None:
        self.joins = 0
        self.under_way = 0
        self.most = 0

    async def join(self, *_: Any, **__: Any) -> Wait:
        self.joins += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        return Wait()


async def test_one_run_joins_at_a_time_also_when_they_come_while_others_leave() -> None:
    log = CountingLog()
    registry = GenerationRegistry(
        cast("Store", None), cast("Log", log), cast("ChatModels", None), LIMITS, 1.0, asyncio.create_task
    )
    run = cast("SessionRun", SimpleNamespace(key="key", session=SimpleNamespace(id="s")))
    joins = []
    for turns in range(12):
        joins += [asyncio.create_task(registry.join_or_elect(run, 0, may_create=True)) for _ in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
    await asyncio.gather(*joins)
    assert (log.joins, log.most) == (36, 1)
    assert registry._locks == {}
