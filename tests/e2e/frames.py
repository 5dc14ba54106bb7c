"""Measures how smoothly the page draws while a reply of 10,000 tokens arrives: `make web-bench`."""

import argparse
import asyncio
import json
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from playwright.async_api import Browser, Page, async_playwright

from tests.e2e.browser import FLAGS, chromium
from tests.e2e.chat_page import ChatPage
from tests.local.laptop import Laptop
from tests.processes import Fake

TOKENS = 10_000
_PAUSE = 0.005

_SECTION = """## Part {number}

Some **bold** words, *slanted* ones, `code` and [a link](https://example.com/{number}), and then a \
sentence that goes on for long enough to be broken into several lines on any page, as models like to write.

- a first item
- a second one, with `more_code()` in it
  1. and one below it

```python
def part_{number}(values: list[int]) -> dict[str, int]:
    # A comment, to be coloured.
    found = {{str(value): value * {number} for value in values if value % 2 == 0}}
    return found | {{"part": {number}}}
```

| name | value |
|:--|--:|
| part | {number} |
| half | {half} |

"""

# Times between pictures, from now on.
_WATCH = """() => {
  window.gaps = [];
  let last = performance.now();
  const frame = (now) => { window.gaps.push(now - last); last = now; requestAnimationFrame(frame); };
  requestAnimationFrame(frame);
}"""

# What one picture may take where there are sixty in a second, milliseconds.
PICTURE = 1000 / 60


@dataclass(frozen=True)
class Frames:
    """What was seen of a page while it drew, in milliseconds, in order of length.

    `gaps` are the times between two pictures; they depend on what else the machine does. `tasks` are the
    processor times of the page's main thread, task by task; they do not, and on an idle machine no picture
    is late unless one of them is too long.
    """

    gaps: list[float]
    tasks: list[float]

    @property
    def rate(self) -> float:
        """Pictures a second."""
        return 1000 * len(self.gaps) / sum(self.gaps)

    @property
    def busy(self) -> float:
        """Processor time for each picture."""
        return sum(self.tasks) / len(self.gaps)

    def quantile(self, share: float) -> float:
        """Return the gap that this share of all does not exceed."""
        return self.gaps[min(len(self.gaps) - 1, int(len(self.gaps) * share))]

    def __str__(self) -> str:
        late = sum(gap > 1.5 * PICTURE for gap in self.gaps)
        long = sum(task > PICTURE for task in self.tasks)
        shares = ", ".join(f"p{share * 100:g} {self.quantile(share):.1f}" for share in (0.5, 0.95, 0.99))
        return (
            f"{len(self.gaps)} pictures, {self.rate:.1f} a second, {late} late;"
            f" ms between them: {shares}, longest {self.gaps[-1]:.1f};"
            f" processor time of the main thread: {self.busy:.1f} ms a picture,"
            f" longest task {self.tasks[-1]:.1f} ms, {long} tasks over {PICTURE:.1f} ms"
        )


class Watch:
    """Looks at a page from `begin` on, and at no other page of the browser meanwhile."""

    def __init__(self, page: Page) -> None:
        self._page = page

    async def begin(self) -> None:
        """Begin."""
        await self._browser().start_tracing(page=self._page, categories=["toplevel"])
        await self._page.evaluate(_WATCH)

    async def end(self) -> Frames:
        """Wait for the reply's end, and return what was seen."""
        # Rarely and cheaply: what looks for roles and names costs more than what is measured.
        await self._page.wait_for_function(
            "() => !document.querySelector('[data-live]')", polling=250, timeout=120_000
        )
        gaps = await self._page.evaluate("window.gaps")
        return Frames(sorted(gaps), sorted(_tasks(await self._browser().stop_tracing())))

    def _browser(self) -> Browser:
        browser = self._page.context.browser
        assert browser is not None
        return browser


def _tasks(trace: bytes) -> list[float]:
    """Return the processor times in a trace of the tasks of the busiest page's main thread."""
    events = json.loads(trace)["traceEvents"]
    named = [event for event in events if event["name"] == "thread_name"]
    threads = {(event["pid"], event["tid"]): event["args"]["name"] for event in named}
    tasks: dict[tuple[int, int], list[float]] = {}
    for event in events:
        thread = event["pid"], event["tid"]
        if event["name"] == "ThreadControllerImpl::RunTask" and threads.get(thread) == "CrRendererMain":
            tasks.setdefault(thread, []).append(event.get("tdur", 0) / 1000)
    return max(tasks.values(), key=sum)


def reply() -> tuple[str, ...]:
    """Return a reply of `TOKENS` tokens with all that Markdown has."""
    tokens: list[str] = []
    number = 0
    while len(tokens) < TOKENS:
        number += 1
        tokens += re.findall(r"\s*\w+|\s*[^\w\s]+|\s+", _SECTION.format(number=number, half=number / 2))
    return tuple(tokens[:TOKENS])


async def _measure(page: Page, url: str, question: str) -> Frames:
    chat = ChatPage(page, url, "gpt-mini")
    await chat.open()
    watch = Watch(page)
    await watch.begin()
    await chat.ask(question)
    return await watch.end()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def _run(url: str, fake: Fake, rates: list[int]) -> None:
    tokens = reply()
    characters = sum(map(len, tokens))
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        _say(f"{TOKENS:,} tokens, {characters:,} characters, Chromium {browser.version}")
        for rate in rates:
            together = round(rate * _PAUSE) if rate else 50
            delay = _PAUSE if rate else 0.0
            fake.script("gpt-5.4-mini", tokens=tokens, tokens_per_write=together, delay=delay)
            page = await browser.new_page(viewport={"width": 1440, "height": 900})
            frames = await _measure(page, url, f"All of it, at {rate} tokens a second")
            _say(f"{f'{rate:,} tokens a second' if rate else 'full speed'}: {frames}")
            await page.close()
        await browser.close()


def main() -> int:
    """Measure at each pace; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "rates", type=int, nargs="*", default=[500, 2500, 0], help="tokens a second; 0 is full speed"
    )
    with tempfile.TemporaryDirectory() as folder:
        fake = Fake(Path(folder))
        try:
            env = {"OPENAI_BASE_URL": f"{fake.url}/v1", "OPENAI_API_KEY": "none"}
            with Laptop(Path(folder) / "data", env=env) as laptop:
                asyncio.run(_run(laptop.ready(), fake, parser.parse_args().rates))
        finally:
            fake.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
