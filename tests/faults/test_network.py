"""Connections to the stores that break under a running process, by way of the fault proxy: row 40."""

import asyncio
import random

import uvloop

from parley.adapters.valkey import ValkeyLog
from parley.errors import LogUnavailable
from parley.ports import Fenced, Write
from tests.faults.proxy import FaultProxy


def test_40_a_reset_at_any_moment_is_a_fault_of_the_log_and_nothing_else(valkey_url: str) -> None:
    """Under uvloop, as servers run: its transports fail in ways that asyncio's do not."""

    async def reset_now_and_then() -> int:
        async with FaultProxy(valkey_url) as proxy:
            log = ValkeyLog(proxy.url, prefix="resets", timeout=0.25, lease_seconds=5, cache_seconds=60)
            joined = await log.join("key", "session", "owner", epoch=0, may_create=True)
            assert isinstance(joined, Write)
            failed = 0
            for number in range(1, 61):
                resets = asyncio.get_running_loop().call_later(random.uniform(0, 0.002), proxy.reset)
                await asyncio.sleep(random.uniform(0, 0.002))
                try:
                    text = "a" * number
                    flushed = await log.flush("key", joined.epoch, "owner", number, "a", [text])
                    assert not isinstance(flushed, Fenced)
                except LogUnavailable:
                    failed += 1
                    await asyncio.sleep(0.02)
                resets.cancel()
            await log.close()
            return failed

    failed = asyncio.Runner(loop_factory=uvloop.new_event_loop).run(reset_now_and_then())
    assert failed < 60
