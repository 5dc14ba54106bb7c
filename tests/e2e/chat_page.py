"""What a person does with the chat's page, in the words of the tests."""

import asyncio
import re
from typing import Any

from playwright.async_api import Locator, Page, expect

from tests.client import text_of
from tests.world import World

# Every text that the newest reply shows, in this document.
_RECORD = """() => {
  window.shown = [];
  const look = () => {
    const text = [...document.querySelectorAll(".message.assistant .prose")].at(-1)?.textContent.trim();
    if (text && text !== window.shown.at(-1)) window.shown.push(text);
  };
  new MutationObserver(look).observe(document.body, { childList: true, characterData: true, subtree: true });
}"""


class ChatPage:
    """The chat in a browser. Everything is found as a person or a screen reader finds it."""

    def __init__(self, page: Page, url: str, model: str = "fake") -> None:
        self.page = page
        self.url = url
        self.model = model
        self.prompt = page.get_by_label("Message", exact=True)
        self.stop = page.get_by_role("button", name="Stop")
        self.send = page.get_by_role("button", name="Send")
        self.replies = page.locator(".message.assistant")
        self.banner = page.get_by_role("region", name="Problem")

    @property
    def reply(self) -> Locator:
        """The newest reply's text."""
        return self.replies.last.locator(".prose")

    @property
    def chat_id(self) -> str:
        """The chat that the address names."""
        found = re.search(r"/chat/([\w-]+)$", self.page.url)
        assert found, self.page.url
        return found[1]

    async def open(self, chat_id: str | None = None) -> None:
        """Open a chat, or a new one, and choose the model."""
        await self.page.goto(f"{self.url}/chat" + (f"/{chat_id}" if chat_id else ""))
        await self.page.get_by_label("Model").select_option(self.model)

    async def ask(self, prompt: str) -> None:
        """Type a question and press Enter."""
        await self.prompt.fill(prompt)
        await self.prompt.press("Enter")
        await expect(self.page.locator(".bubble").last).to_have_text(prompt)

    async def some(self, text: str | re.Pattern[str] = re.compile(r"\S")) -> None:
        """Wait until the newest reply has some text."""
        await expect(self.reply).to_contain_text(text)

    async def finished(self, timeout: float = 60_000) -> None:
        """Wait until the newest reply is there with its end."""
        await expect(self.replies.last).not_to_have_attribute("data-status", "pending", timeout=timeout)
        await expect(self.send).to_be_visible()

    async def pauses_pass(self, upto: Locator) -> None:
        """Have what the page waits for come at once, until it shows `upto`; wants `page.clock` installed."""
        async with asyncio.timeout(90):
            while not await upto.is_visible():
                await self.page.clock.fast_forward(10_000)
                await asyncio.sleep(0.1)

    async def shown(self) -> str:
        """Return the newest reply as it is shown, white space made one."""
        return " ".join((await self.reply.inner_text()).split())

    async def record(self) -> None:
        """Begin to note every text that the newest reply shows, for as long as this document lives."""
        await self.page.evaluate(_RECORD)

    async def recorded(self) -> list[str]:
        """Return what was noted, oldest first; nothing where the page was loaded anew."""
        texts: list[str] = await self.page.evaluate("window.shown ?? []")
        return texts

    def stored(self, world: World) -> dict[str, Any]:
        """Return the newest reply's row."""
        [(status, source, parts)] = world.sql(
            "select status, source, parts from messages where chat_id = %s and role = 'assistant'"
            " order by position desc limit 1",
            self.chat_id,
        )
        return {"status": status, "source": source, "text": " ".join(text_of({"parts": parts}).split())}
