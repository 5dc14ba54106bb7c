"""Makes the pictures of the documentation from the running product: `make screenshots`."""

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.async_api import Browser, Page, async_playwright, expect

from tests.e2e.browser import FLAGS, chromium
from tests.e2e.chat_page import ChatPage
from tests.local.laptop import Laptop

_EARLIER = ("How does a stream resume?", "Merge overlapping intervals in Python", "Postgres or Valkey?")
_QUESTION = "What happens when I close my laptop?"
_FRAME_SECONDS = 0.2


async def _talk(chat: ChatPage, question: str) -> None:
    await chat.open()
    await chat.ask(question)
    await chat.finished(timeout=60_000)


async def _page(browser: Browser, width: int, height: int, scheme: str = "light") -> Page:
    context = await browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    )
    return await context.new_page()


async def _stills(browser: Browser, url: str, chat_id: str, folder: Path) -> None:
    for name, width, height in (("phone", 375, 740), ("tablet", 768, 1024), ("desktop", 1440, 900)):
        for scheme in ("light", "dark"):
            page = await _page(browser, width, height, scheme)
            await page.goto(f"{url}/chat/{chat_id}")
            await expect(page.locator(".hljs-keyword").first).to_be_attached()
            await page.mouse.move(0, 0)
            await page.screenshot(path=folder / f"{name}-{scheme}.png")
            await page.context.close()


async def _frames(browser: Browser, url: str, folder: Path) -> None:
    """Ask, stop halfway, ask again: a picture every so often."""
    page = await _page(browser, 960, 620)
    chat = ChatPage(page, url, "demo")
    await chat.open()
    filming = asyncio.ensure_future(_film(page, folder))
    await chat.prompt.press_sequentially(_QUESTION, delay=35)
    await asyncio.sleep(0.3)
    await chat.prompt.press("Enter")
    await chat.finished(timeout=60_000)
    await asyncio.sleep(1)
    await chat.prompt.press_sequentially(_QUESTION, delay=20)
    await chat.prompt.press("Enter")
    await expect(chat.replies.last).to_contain_text("From cache")
    await asyncio.sleep(2)
    filming.cancel()
    await asyncio.gather(filming, return_exceptions=True)


async def _film(page: Page, folder: Path) -> None:
    number = 0
    began = time.monotonic()
    while True:
        await page.screenshot(path=folder / f"{number:04}.png", animations="disabled", caret="initial")
        number += 1
        await asyncio.sleep(max(0.0, began + number * _FRAME_SECONDS - time.monotonic()))


def _animate(frames: Path, target: Path) -> None:
    pictures = [str(path) for path in sorted(frames.glob("*.png"))]
    command = ["convert", "-delay", str(round(_FRAME_SECONDS * 100)), "-loop", "0", *pictures]
    # Without dithering, what does not move is equal from frame to frame, and is stored once.
    command += [
        "-resize",
        "720x",
        "+dither",
        "-colors",
        "32",
        "-fuzz",
        "2%",
        "-layers",
        "OptimizePlus",
        str(target),
    ]
    subprocess.run(command, check=True)


async def _make(url: str, target: Path) -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = await _page(browser, 1280, 800)
        chat = ChatPage(page, url, "demo")
        for question in _EARLIER:
            await _talk(chat, question)
        await _stills(browser, url, chat.chat_id, target)
        with tempfile.TemporaryDirectory() as folder:
            await _frames(browser, url, Path(folder))
            _animate(Path(folder), target / "parley.gif")
        await browser.close()


def main() -> int:
    """Make the pictures in docs/images; return the exit code."""
    target = Path(__file__).resolve().parents[2] / "docs" / "images"
    target.mkdir(parents=True, exist_ok=True)
    if shutil.which("convert") is None:
        sys.stderr.write("The animated picture needs ImageMagick: apt-get install imagemagick\n")
        return 1
    with (
        tempfile.TemporaryDirectory() as folder,
        Laptop(Path(folder) / "data", env={"DEMO_TOKENS_PER_SECOND": "35"}) as laptop,
    ):
        asyncio.run(_make(laptop.ready(), target))
    return 0


if __name__ == "__main__":
    sys.exit(main())
