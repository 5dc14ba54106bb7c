"""A bell wakes its one waiter, whoever came first."""

import asyncio

import pytest

from parley.support.wakeup import Listeners, Wakeup


async def test_a_notification_wakes_the_waiter() -> None:
    wakeup = Wakeup()
    waiter = asyncio.create_task(wakeup.wait())
    await asyncio.sleep(0)
    assert not waiter.done()
    wakeup.notify()
    wakeup.notify()
    assert await waiter


async def test_a_notification_before_the_wait_is_not_lost_and_counts_once() -> None:
    wakeup = Wakeup()
    wakeup.notify()
    wakeup.notify()
    assert await wakeup.wait()
    assert not await wakeup.wait(0.001)


async def test_a_wait_in_silence_ends_at_the_timeout() -> None:
    wakeup = Wakeup()
    begin = asyncio.get_running_loop().time()
    assert not await wakeup.wait(0.02)
    assert not await wakeup.wait(0)
    assert asyncio.get_running_loop().time() - begin > 0.015


async def test_a_notification_at_the_timeout_is_kept_or_told() -> None:
    wakeup = Wakeup()
    loop = asyncio.get_running_loop()
    for _ in range(20):
        loop.call_later(0.001, wakeup.notify)
        told = await wakeup.wait(0.001)
        assert told or await wakeup.wait(30)


async def test_the_timer_of_one_wait_serves_the_next() -> None:
    wakeup = Wakeup()
    loop = asyncio.get_running_loop()
    begin = loop.time()
    # Rung until after the first timeout would have passed, then silent for a whole one.
    for _ in range(6):
        loop.call_later(0.01, wakeup.notify)
        assert await wakeup.wait(0.04)
    assert not await wakeup.wait(0.04)
    assert loop.time() - begin >= 0.095
    # A shorter wait does not last as long as the one before.
    loop.call_later(0.01, wakeup.notify)
    assert await wakeup.wait(60)
    async with asyncio.timeout(30):
        assert not await wakeup.wait(0.02)


async def test_a_wait_without_a_timeout_is_ended_by_no_timer() -> None:
    wakeup = Wakeup()
    asyncio.get_running_loop().call_later(0.001, wakeup.notify)
    assert await wakeup.wait(0.01)
    asyncio.get_running_loop().call_later(0.04, wakeup.notify)
    assert await wakeup.wait()


async def test_a_cancelled_waiter_leaves_a_wakeup_that_works() -> None:
    wakeup = Wakeup()
    waiter = asyncio.create_task(wakeup.wait(5))
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    wakeup.notify()
    assert await wakeup.wait()


async def test_listeners_wake_those_who_are_there() -> None:
    first, second, gone = Wakeup(), Wakeup(), Wakeup()
    listeners = Listeners()
    for wakeup in (first, second, first, gone):
        listeners.add(wakeup)
    listeners.discard(gone)
    listeners.discard(gone)
    assert list(listeners) == [first, second]
    assert len(listeners) == 2
    listeners.notify()
    assert [await wakeup.wait(0) for wakeup in (first, second, gone)] == [True, True, False]
