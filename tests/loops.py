"""Runs a folder's tests on both event loops that servers have."""

import asyncio
from collections.abc import Callable, Mapping

from local.loop import new_event_loop

Loops = Mapping[str, Callable[[], asyncio.AbstractEventLoop]]


def pytest_asyncio_loop_factories() -> Loops:
    return {"asyncio": asyncio.new_event_loop, "uvloop": new_event_loop}
