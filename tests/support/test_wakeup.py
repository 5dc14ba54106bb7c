"""A bell wakes its one waiter, whoever came first."""

import asyncio

import pytest

from parley.support.wakeup import Bell, Bells


async def test_a_ring_wakes_the_waiter() -> None:
    bell = Bell()
    waiter = asyncio.create_task(bell.wait())
    await asyncio.sleep(0)
    assert not waiter.done()
    bell.ring()
    bell.ring()
    assert await waiter


async def test_a_ring_before_the_wait_is_not_lost_and_counts_once() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    assert await bell.wait()
    assert not await bell.wait(0.001)


async def test_silence_ends_at_the_timeout() -> None:
    bell = Bell()
    begin = asyncio.get_running_loop().time()
    assert not await bell.wait(0.02)
    assert not await bell.wait(0)
    assert 0.015 < asyncio.get_running_loop().time() - begin < 1


async def test_a_ring_at_the_timeout_is_kept_or_told() -> None:
    bell = Bell()
    loop = asyncio.get_running_loop()
    for _ in range(20):
        loop.call_later(0.001, bell.ring)
        told = await bell.wait(0.001)
        assert told or await bell.wait(1)


async def test_the_timer_of_one_wait_serves_the_next() -> None:
    bell = Bell()
    loop = asyncio.get_running_loop()
    begin = loop.time()
    # Rung until after the first timeout would have passed, then silent for a whole one.
    for _ in range(6):
        loop.call_later(0.01, bell.ring)
        assert await bell.wait(0.04)
    assert not await bell.wait(0.04)
    assert loop.time() - begin >= 0.095
    # A shorter wait does not last as long as the one before.
    loop.call_later(0.01, bell.ring)
    assert await bell.wait(60)
    begin = loop.time()
    assert not await bell.wait(0.02)
    assert loop.time() - begin < 1


async def test_a_wait_without_a_timeout_is_ended_by_no_timer() -> None:
    bell = Bell()
    asyncio.get_running_loop().call_later(0.001, bell.ring)
    assert await bell.wait(0.01)
    asyncio.get_running_loop().call_later(0.04, bell.ring)
    assert await bell.wait()


async def test_a_cancelled_waiter_leaves_a_bell_that_works() -> None:
    bell = Bell()
    waiter = asyncio.create_task(bell.wait(5))
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    bell.ring()
    assert await bell.wait()


async def test_bells_ring_those_who_are_there() -> None:
    first, second, gone = Bell(), Bell(), Bell()
    bells = Bells()
    for bell in (first, second, first, gone):
        bells.add(bell)
    bells.discard(gone)
    bells.discard(gone)
    assert list(bells) == [first, second]
    assert len(bells) == 2
    bells.ring()
    assert [await bell.wait(0) for bell in (first, second, gone)] == [True, True, False]
