"""One timer for many times, on either event loop that servers have."""

import asyncio
import math
from collections.abc import Callable

import pytest

from local.loop import new_event_loop
from parley.support.timer import Deadline


class Alarm(Deadline):
    def __init__(self) -> None:
        super().__init__()
        self.notified: list[float] = []
        self.rang = asyncio.Event()

    def set(self, seconds: float) -> None:
        self._reschedule(asyncio.get_running_loop().time() + seconds)

    def unset(self) -> None:
        self._reschedule(math.inf)

    def _on_deadline(self) -> None:
        self.notified.append(asyncio.get_running_loop().time())
        self.rang.set()


@pytest.fixture(params=[asyncio.new_event_loop, new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[..., list[float]]:
    """Return what sets an alarm, to one time after the other, and tells after how long it rang.

    Where it should ring, that is waited for, and then a while for whether it rings again.
    """

    def run(*times: float | None, rings: bool) -> list[float]:
        async def main() -> list[float]:
            alarm, begun = Alarm(), asyncio.get_running_loop().time()
            for seconds in times:
                alarm.unset() if seconds is None else alarm.set(seconds)
            if rings:
                await asyncio.wait_for(alarm.rang.wait(), 30)
            await asyncio.sleep(0.1)
            return [notified - begun for notified in alarm.notified]

        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(main())

    return run


@pytest.mark.parametrize(
    ("times", "least"),
    [
        ((0.05,), 0.045),
        ((0.02, 0.08), 0.075),
        ((600.0, 0.02), 0.015),
        # What is due at once has no timer worth the name, and may be moved all the same.
        ((0.0003, 0.05), 0.045),
        ((0.0, 600.0, 0.05), 0.045),
        ((-1.0, 0.05), 0.045),
        ((0.0003,), 0.0),
    ],
)
def test_a_deadline_comes_once_at_the_last_time_it_was_set_to(
    run: Callable[..., list[float]], times: tuple[float, ...], least: float
) -> None:
    [notified] = run(*times, rings=True)
    assert notified >= least


@pytest.mark.parametrize("times", [(0.05, None), (0.0003, None), (600.0,), (0.0003, 600.0)])
def test_a_deadline_does_not_come_at_a_time_it_is_no_longer_set_to(
    run: Callable[..., list[float]], times: tuple[float | None, ...]
) -> None:
    assert run(*times, rings=False) == []
