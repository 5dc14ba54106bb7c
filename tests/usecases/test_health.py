"""A check of the stores answers all who ask meanwhile, and for some seconds after."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from parley.usecases.health import Health, HealthCheck
from tests.in_memory import Clock, Process, World, until

WELL, ILL, WITHOUT_LOG = Health(True, True), Health(False, True), Health(True, False)


@pytest.fixture
async def process() -> AsyncIterator[Process]:
    world = await World().open()
    yield world.process()
    await world.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def check(process: Process, clock: Clock) -> HealthCheck:
    return HealthCheck(process.store, process.log, clock)


def asked(process: Process) -> int:
    assert process.store_switch.calls["check"] == process.log_switch.calls["check"]
    return process.store_switch.calls["check"]


async def test_a_good_result_is_the_answer_for_5_seconds(
    process: Process, check: HealthCheck, clock: Clock
) -> None:
    assert await check.health() == WELL
    process.store_switch.turn_off()
    clock.now += 4.9
    assert {await check.health() for _ in range(100)} == {WELL}
    assert asked(process) == 1
    clock.now += 0.2
    assert await check.health() == ILL
    assert asked(process) == 2


@pytest.mark.parametrize("store", ["database", "log"])
async def test_a_bad_result_is_the_answer_for_1_second(
    process: Process, check: HealthCheck, clock: Clock, store: str
) -> None:
    switch, bad = (process.store_switch, ILL) if store == "database" else (process.log_switch, WITHOUT_LOG)
    switch.turn_off()
    assert await check.health() == bad
    switch.turn_on()
    clock.now += 0.9
    assert {await check.health() for _ in range(100)} == {bad}
    assert asked(process) == 1
    clock.now += 0.2
    assert await check.health() == WELL
    assert asked(process) == 2


class SlowStore:
    """A store whose check waits for its gate."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.checks = 0
        self.error: Exception | None = None

    async def check(self) -> None:
        self.checks += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error


async def test_those_who_ask_during_a_check_get_its_result(process: Process, clock: Clock) -> None:
    store = SlowStore()
    check = HealthCheck(store, process.log, clock)  # type: ignore[arg-type]
    waiting = [asyncio.create_task(check.health()) for _ in range(100)]
    await until(lambda: store.checks == 1)
    # However long it takes.
    clock.now += 60
    late = asyncio.create_task(check.health())
    waiting[0].cancel()
    await asyncio.sleep(0)
    store.gate.set()
    assert {await task for task in (*waiting[1:], late)} == {WELL}
    assert waiting[0].cancelled()
    assert store.checks == 1
    # The result is as old as the check's end.
    clock.now += 4.9
    assert await check.health() == WELL
    assert store.checks == 1


async def test_a_check_that_broke_is_not_remembered(process: Process, clock: Clock) -> None:
    store = SlowStore()
    store.gate.set()
    store.error = RuntimeError("a bug")
    check = HealthCheck(store, process.log, clock)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="a bug"):
        await check.health()
    store.error = None
    assert await check.health() == WELL


def test_a_check_that_another_event_loop_left_behind_is_not_waited_for(clock: Clock) -> None:
    store = SlowStore()

    class Log:
        async def check(self) -> None:
            return

    check = HealthCheck(store, Log(), clock)  # type: ignore[arg-type]

    async def leave() -> None:
        asking = asyncio.create_task(check.health())
        await until(lambda: store.checks == 1)
        asking.cancel()

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(leave())

        async def again() -> Health:
            store.gate = asyncio.Event()
            store.gate.set()
            return await check.health()

        assert asyncio.run(again()) == WELL
        assert store.checks == 2
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
