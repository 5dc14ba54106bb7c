"""A built web UI, a browser, and pages of a real server.

`site`  the web UI is built, so that every server of the test serves it
`page`  a page of a new browser profile; what it logs as an error fails the test, unless expected

One browser serves all tests of a worker, which takes one event loop for them: each module says so.
"""

import fcntl
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.e2e.browser import FLAGS, chromium
from tests.processes import Fake
from tests.world import World

_ROOT = Path(__file__).resolve().parent.parent.parent
# Milliseconds: a machine may have much else to do.
expect.set_options(timeout=30_000)


@pytest.fixture(scope="session")
def site() -> None:
    """Build the web UI, once for all processes that run tests."""
    if shutil.which("npm") is None:
        pytest.fail("The browser tests need Node.js 20 or later with npm, to build the web UI.")
    with Path(tempfile.gettempdir(), "parley-web-build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            ["make", "web/dist/index.html"], cwd=_ROOT, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(site: None) -> AsyncIterator[Browser]:
    """Return Chromium."""
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(
            executable_path=chromium(),
            args=FLAGS,
            # Playwright turns off what people's browsers do.
            ignore_default_args=["--disable-back-forward-cache"],
        )
        yield started
        await started.close()


@pytest_asyncio.fixture(loop_scope="session")
async def world(tmp_path: Path, demo_database_url: str, valkey_url: str, fake: Fake) -> AsyncIterator[World]:
    """Return an empty world, on the browser's event loop."""
    made = World(tmp_path, demo_database_url, valkey_url, fake)
    yield made
    await made.close()


@pytest_asyncio.fixture(loop_scope="session")
async def page(browser: Browser) -> AsyncIterator[Page]:
    """Return a page that must not break the policy or throw."""
    wrong: list[str] = []
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    made = await context.new_page()
    made.set_default_timeout(30_000)
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.on("console", lambda said: wrong.append(said.text) if "Content Security" in said.text else None)
    yield made
    await context.close()
    assert wrong == []
