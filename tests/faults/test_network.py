"""Connections to the stores that break under a running process, by way of the fault proxy: row 40."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import uvloop

from local.fake_provider import reply_to
from parley.domain.conversation import Reply
from parley.domain.errors import LogUnavailable
from parley.domain.events import Completed, FinishReason
from parley.domain.results import Append, Flushed, Write
from parley.valkey.log import ValkeyLog
from tests.client import Transcript, eventually, text_of
from tests.faults.proxy import FaultProxy
from tests.faults.test_readers import LEASES
from tests.world import MACS, World


def test_40_a_reset_at_any_moment_is_a_fault_of_the_log_and_nothing_else(valkey_url: str) -> None:
    """Under uvloop, where somebody serves Parley so: its transports fail in ways that asyncio's do not."""

    async def reset_now_and_then() -> int:
        async with FaultProxy(valkey_url) as proxy:
            log = ValkeyLog(
                proxy.url, macs=MACS, prefix="resets", timeout=0.25, lease_seconds=5, cache_seconds=60
            )
            joined = await log.join("key", "session", "owner", epoch=0, may_create=True)
            assert isinstance(joined, Write)
            failed = 0
            for number in range(1, 61):
                resets = asyncio.get_running_loop().call_later(random.uniform(0, 0.002), proxy.reset)
                await asyncio.sleep(random.uniform(0, 0.002))
                try:
                    text = "a" * number
                    [flushed] = await log.flush([Append("key", joined.epoch, "owner", number, "a", [text])])
                    assert isinstance(flushed, Flushed)
                except LogUnavailable:
                    failed += 1
                    await asyncio.sleep(0.02)
                resets.cancel()
            await log.close()
            return failed

    failed = asyncio.Runner(loop_factory=uvloop.new_event_loop).run(reset_now_and_then())
    assert failed < 60


async def test_40_an_answer_that_makes_no_sense_is_a_fault_of_the_log(valkey_url: str) -> None:
    # What is prepared does not go by way of the proxy, and has time on a busy machine.
    honest = ValkeyLog(valkey_url, macs=MACS, prefix="lies", timeout=5, lease_seconds=5, cache_seconds=60)
    async with FaultProxy(valkey_url) as proxy:
        faults = 0
        for number in range(60):
            log = ValkeyLog(
                proxy.url, macs=MACS, prefix="lies", timeout=0.1, lease_seconds=5, cache_seconds=60
            )
            reply = Reply(1, "abc", Completed(FinishReason.STOP))
            joined = await honest.join(str(number), "session", "owner", epoch=0, may_create=True)
            assert isinstance(joined, Write)
            await honest.stop(str(number), "other session")
            await honest.park("session", reply, "provider")
            calls: list[Callable[[], Awaitable[object]]] = [
                partial(log.join, str(number), "session", "owner", epoch=0, may_create=True),
                partial(log.flush, [Append(str(number), joined.epoch, "owner", 1, "a", ["a"])]),
                partial(log.read, str(number), joined.epoch, 0),
                partial(log.parked, 10),
                partial(log.end, str(number), "owner", reply, 1),
                partial(log.join, str(number), "session", "owner", epoch=0, may_create=True),
            ]
            for place, call in enumerate(calls):
                if place == number % len(calls):
                    proxy.corrupt(proxy.down)
                try:
                    faults += await call() == [None]
                except LogUnavailable:
                    faults += 1
            await proxy.heal()
            await log.close()
        assert faults
    await honest.close()


@pytest.mark.parametrize("how", ["slow", "stalled", "half open", "lying", "reset", "cut"])
async def test_40_between_the_process_and_its_log(shared: World, how: str) -> None:
    model = shared.model(f"network-{how}", delay=0.04)
    prompt = f"Is the network {how}, and what if it is, for as long as this takes?"
    async with FaultProxy(shared.valkey_url) as proxy:
        here, there = (shared.client(shared.server(VALKEY_URL=proxy.url, **LEASES)) for _ in range(2))
        for client in (here, there):
            await client.ask("Load.", shared.model("load-network"), regenerate=True)
        started = await here.start(prompt, model)
        reading, elsewhere = Transcript(), Transcript()
        reads = asyncio.create_task(here.read(started["sessionId"], reading))
        await eventually(lambda: len(reading.text) > 3)
        other = asyncio.create_task(there.read(started["sessionId"], elsewhere))
        await eventually(lambda: len(elsewhere.text) > 3)
        match how:
            case "slow":
                proxy.delay(0.1)
            case "stalled":
                proxy.stall()
            case "half open":
                proxy.half_open()
            case "lying":
                proxy.corrupt(proxy.down)
            case "reset":
                proxy.reset()
            case _:
                proxy.cut()
        await asyncio.wait_for(asyncio.gather(reads, other), 60)
        assert reading.text == elsewhere.text == reply_to(prompt) == text_of(await here.reply(started))
        assert reading.end == elsewhere.end
        assert reading.end is not None
        assert reading.end["saved"] is True
        assert "reset" not in reading.types()
        assert shared.fake.calls(model) == 1
        _, after = await there.ask(f"And is it {how} still?", model)
        assert after.text == reply_to(f"And is it {how} still?")
        await proxy.heal()
