"""A dependency that is away costs one timeout, once."""

import asyncio

import pytest

from parley.domain.errors import LogUnavailable
from parley.valkey.circuit_breaker import CircuitBreaker
from tests.client import eventually


class Away(Exception):
    pass


class Dependency:
    """Answers, fails or is silent."""

    def __init__(self) -> None:
        self.mode: type[Exception] | float | None = None
        self.calls = 0
        self.probes = 0
        self.inside = self.most = 0

    async def work(self) -> str:
        self.calls += 1
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self._behave()
        finally:
            self.inside -= 1
        return "answer"

    async def probe(self) -> None:
        self.probes += 1
        await self._behave()

    async def _behave(self) -> None:
        if isinstance(self.mode, float):
            await asyncio.sleep(self.mode)
            raise TimeoutError
        if self.mode is not None:
            raise self.mode("with words of the dependency")


@pytest.fixture
def dependency() -> Dependency:
    return Dependency()


@pytest.fixture
def breaker(dependency: Dependency) -> CircuitBreaker:
    return CircuitBreaker(dependency.probe, faults=(Away, TimeoutError), pause=0.02)


async def fails(breaker: CircuitBreaker, dependency: Dependency) -> None:
    """Have a call fail, without a word of the dependency."""
    with pytest.raises(LogUnavailable) as caught:
        await breaker.call(dependency.work)
    assert "words of the dependency" not in repr(caught.value)


async def test_a_dependency_that_works_is_not_probed(breaker: CircuitBreaker, dependency: Dependency) -> None:
    assert await breaker.call(dependency.work) == "answer"
    assert (breaker.closed, dependency.probes) == (True, 0)


@pytest.mark.parametrize("mode", [Away, 0.05])
async def test_a_fault_opens_it_until_a_probe_succeeds(
    breaker: CircuitBreaker, dependency: Dependency, mode: type[Exception] | float
) -> None:
    dependency.mode = mode
    for _ in range(20):
        await fails(breaker, dependency)
    # The others did not ask, so they did not wait.
    assert dependency.calls == 1
    await eventually(lambda: dependency.probes >= 2)
    assert not breaker.closed
    dependency.mode = None
    await eventually(lambda: breaker.closed)
    assert await breaker.call(dependency.work) == "answer"
    probes = dependency.probes
    await asyncio.sleep(0.05)
    assert dependency.probes == probes


async def test_calls_that_were_under_way_wait_no_longer_each(
    breaker: CircuitBreaker, dependency: Dependency
) -> None:
    dependency.mode = 0.05
    calls = [asyncio.create_task(fails(breaker, dependency)) for _ in range(20)]
    await asyncio.wait(calls)
    # They waited beside each other, not one for the other.
    assert dependency.most == 20
    assert not [call for call in calls if call.exception()]
    await breaker.close()


async def test_our_own_bugs_are_not_hidden(breaker: CircuitBreaker, dependency: Dependency) -> None:
    dependency.mode = ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        await breaker.call(dependency.work)
    assert breaker.closed


async def test_a_cancelled_call_is_cancelled(breaker: CircuitBreaker, dependency: Dependency) -> None:
    dependency.mode = 10.0
    call = asyncio.create_task(breaker.call(dependency.work))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert breaker.closed


async def test_closing_ends_the_probes(breaker: CircuitBreaker, dependency: Dependency) -> None:
    dependency.mode = Away
    await fails(breaker, dependency)
    await breaker.close()
    await breaker.close()
    probes = dependency.probes
    await asyncio.sleep(0.05)
    assert dependency.probes == probes


def test_a_probe_of_an_earlier_event_loop_is_not_waited_for(dependency: Dependency) -> None:
    breaker = CircuitBreaker(dependency.probe, faults=(Away,), pause=0.01)
    dependency.mode = Away
    asyncio.run(fails(breaker, dependency))
    assert not breaker.closed
    dependency.mode = None

    async def later() -> str:
        await fails(breaker, dependency)
        await eventually(lambda: breaker.closed)
        return await breaker.call(dependency.work)

    assert asyncio.run(later()) == "answer"
