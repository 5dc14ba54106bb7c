"""Random use and random faults, with the invariants of the design checked after every step.

`PARLEY_SOAK_SECONDS` makes it run for so long; without, it is a short run.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.faults.chaos import OFFSETS, Chaos, Hall, Ways
from tests.processes import Fake
from tests.world import World

_which, _session, _tab = st.integers(0, 1), st.integers(0, 5), st.integers(0, 1)
_how = st.sampled_from(["refused", "silent", "half open"])
_start = st.tuples(st.just("start"), _which, st.integers(0, 2), st.integers(0, 1))
_read = st.tuples(st.just("read"), _which, _session, _tab, st.integers(1, 80))
_use = st.one_of(
    _start,
    _start,
    _read,
    _read,
    _read,
    _read,
    st.tuples(st.just("follow_up"), _which, _session),
    st.tuples(st.just("again"), _which, _session),
    st.tuples(st.just("resume"), _which, _session, st.integers(0, 80)),
    st.tuples(st.just("junk"), _which, _session),
    st.tuples(st.just("peek"), _which, _session),
    st.tuples(st.just("stop"), _which, _session),
    st.tuples(st.just("pause"), st.floats(0, 0.3)),
)
_fate = st.one_of(
    st.tuples(st.just("kill"), _which),
    st.tuples(st.just("freeze"), _which, st.floats(0.1, 1.5)),
    st.tuples(st.just("wipe")),
    st.tuples(st.just("mute"), _how, st.floats(0.1, 1.5)),
    st.tuples(st.just("dark"), _how, st.floats(0.1, 3.0)),
    st.tuples(st.just("cut")),
    st.tuples(st.just("purge")),
    st.tuples(st.just("clock"), _which, st.sampled_from(OFFSETS)),
)
_steps = st.lists(st.one_of(_use, _use, _use, _fate), min_size=6, max_size=20)


@pytest.fixture
async def hall(tmp_path: Path, demo_database_url: str, valkey_url: str, fake: Fake) -> AsyncIterator[Hall]:
    """Return servers and stores that last for all examples."""
    world = World(tmp_path, demo_database_url, valkey_url, fake)
    async with Ways(demo_database_url, valkey_url) as ways:
        made = await asyncio.to_thread(Hall, world, ways)
        yield made
        made.database.close()
        await world.close()


async def _live(hall: Hall, number: int, steps: list[tuple[Any, ...]]) -> None:
    chaos = Chaos(hall, number)
    for name, *arguments in steps:
        await chaos.live(name, tuple(arguments))
    await chaos.finish()


async def test_whatever_happens_the_invariants_hold(hall: Hall) -> None:
    seconds = float(os.environ.get("PARLEY_SOAK_SECONDS", "0"))
    loop = asyncio.get_running_loop()
    deadline = time.monotonic() + seconds
    lived = 0

    def example(steps: list[tuple[Any, ...]]) -> None:
        nonlocal lived
        lived += 1
        asyncio.run_coroutine_threadsafe(_live(hall, lived, steps), loop).result(180)

    @settings(
        max_examples=4 if not seconds else 10,
        deadline=None,
        database=None,
        derandomize=False,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(_steps)
    def explore(steps: list[tuple[Any, ...]]) -> None:
        example(steps)

    while True:
        await asyncio.to_thread(explore)
        if time.monotonic() >= deadline:
            return
