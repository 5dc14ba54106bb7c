"""Places are never more than there are, never lost, and never waited for too long."""

import asyncio
import math
import random

import pytest

from parley.support.semaphore import FastSemaphore, KeyedQueues
from tests.client import eventually


def soon(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_who_finds_a_place_takes_it_and_who_waits_is_first() -> None:
    semaphore = FastSemaphore(1)
    assert semaphore.try_acquire()
    assert not semaphore.try_acquire()
    turns: list[int] = []

    async def come(number: int) -> None:
        await semaphore.wait(soon(5))
        turns.append(number)

    tasks = [asyncio.create_task(come(number)) for number in range(3)]
    await asyncio.sleep(0)
    for number in range(3):
        semaphore.release()
        assert not semaphore.try_acquire()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert turns == list(range(number + 1))
    semaphore.release()
    assert semaphore.try_acquire()
    await asyncio.gather(*tasks)


async def test_nobody_waits_beyond_the_deadline() -> None:
    semaphore = FastSemaphore(1)
    await semaphore.wait(soon(5))
    loop = asyncio.get_running_loop()
    begun = loop.time()

    async def come(seconds: float) -> float:
        with pytest.raises(TimeoutError):
            await semaphore.wait(soon(seconds))
        return loop.time() - begun

    waited = await asyncio.gather(come(0.05), come(0.1), come(0.2))
    assert list(waited) == sorted(waited)
    assert all(took > seconds - 0.005 for seconds, took in zip((0.05, 0.1, 0.2), waited, strict=True))
    semaphore.release()
    assert semaphore.try_acquire()


async def test_a_cancelled_wait_loses_no_place() -> None:
    semaphore = FastSemaphore(1)
    assert semaphore.try_acquire()
    waits = [asyncio.create_task(semaphore.wait(soon(5))) for _ in range(3)]
    await asyncio.sleep(0)
    waits[0].cancel()
    await asyncio.sleep(0)
    # Given to the second, which is cancelled before it knows: the third gets it.
    semaphore.release()
    waits[1].cancel()
    outcomes = await asyncio.wait_for(asyncio.gather(*waits, return_exceptions=True), 30)
    assert [type(outcome) for outcome in outcomes] == [
        asyncio.CancelledError, asyncio.CancelledError, type(None),
    ]  # fmt: skip
    semaphore.release()
    assert semaphore.try_acquire()


async def test_in_any_order_of_events_no_place_is_lost_or_doubled() -> None:
    semaphore = FastSemaphore(3)
    inside = most = 0

    async def come(chance: random.Random) -> None:
        nonlocal inside, most
        await semaphore.wait(soon(chance.choice([0.001, 0.01, 5])))
        inside += 1
        most = max(most, inside)
        try:
            await asyncio.sleep(chance.random() * 0.002)
        finally:
            inside -= 1
            semaphore.release()

    chance = random.Random(7)
    tasks = [asyncio.create_task(come(chance)) for _ in range(400)]
    for task in tasks:
        if chance.random() < 0.3:
            await asyncio.sleep(chance.random() * 0.001)
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    async def free() -> bool:
        return inside == 0

    await eventually(free)
    assert most == 3
    assert [semaphore.try_acquire() for _ in range(4)] == [True, True, True, False]


async def test_a_queue_admits_one_caller_of_each_key_and_is_forgotten_afterwards() -> None:
    queues, order = KeyedQueues(1), []

    async def caller(key: str, name: str) -> None:
        turn = queues.join(key)
        try:
            await turn.wait(math.inf)
            order.append(f"{name} begins")
            await asyncio.sleep(0)
            order.append(f"{name} ends")
            turn.release()
        finally:
            queues.leave(key)

    first = [asyncio.create_task(caller("a", name)) for name in ("one", "two", "three")]
    first.append(asyncio.create_task(caller("b", "other")))
    await asyncio.sleep(0)
    first[1].cancel()
    await asyncio.wait(first)
    of_a = [line for line in order if not line.startswith("other")]
    assert of_a == ["one begins", "one ends", "three begins", "three ends"]
    # The other key waited for nobody.
    assert order.index("other ends") < order.index("three begins")
    assert not queues._queues
