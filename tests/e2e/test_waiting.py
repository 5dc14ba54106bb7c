"""What the page shows of a model that thinks for long, or says no, of which only the stream tells."""

import re
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.e2e.axe import expect_accessible
from tests.e2e.chat_page import ChatPage
from tests.e2e.wire import Wire, stream
from tests.world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")

_START = {
    "type": "start",
    "sessionId": "s",
    "chatId": "c",
    "messageId": "m",
    "modelId": "fake",
    "source": "provider",
}
_TYPING = {"type": "typing"}
_THINKING = {"type": "status", "state": "thinking", "elapsedMs": 12_345}
_LATER = {"type": "status", "state": "of a later server"}
_SECONDS = re.compile(r"^(1[2-9]|[2-5]\d) s$")


def _error(code: str, **more: Any) -> dict[str, Any]:
    return {"type": "error", "code": code, "message": f"It is {code}.", "saved": True} | more


async def test_a_model_that_thinks_is_shown_with_its_time_until_there_is_text(
    world: World, page: Page
) -> None:
    async with Wire(world.server().url) as wire:
        wire.answer, wire.answer_stays = stream(_START, _TYPING, _THINKING, _LATER), True
        chat = ChatPage(page, wire.url)
        await chat.open()
        await chat.ask("Think")
        time = page.get_by_role("timer")
        await expect(time).to_have_text(_SECONDS)
        await expect(chat.replies.last).to_contain_text(re.compile(r"Thinking… \d+ s"))
        await expect(page.get_by_role("status").filter(has_text="The model is thinking.")).to_have_count(1)
        await expect_accessible(page, "a model that thinks")
        before = await time.inner_text()
        await expect(time).not_to_have_text(before)
        wire.answer = None
        wire.cut()
        await chat.finished()
        await expect(time).to_have_count(0)
        stored = chat.stored(world)
        assert await chat.shown() == stored["text"] != ""


async def test_a_question_that_is_too_long_goes_back_to_be_shortened(world: World, page: Page) -> None:
    async with Wire(world.server().url) as wire:
        wire.answer = stream(_START, _TYPING, _error("context_too_long", retryable=False))
        chat = ChatPage(page, wire.url)
        await chat.open()
        await chat.ask("A very long question")
        await expect(chat.banner).to_contain_text("It is context_too_long.")
        await expect(chat.banner.get_by_role("button", name="Retry")).to_have_count(0)
        await expect(page.get_by_role("button", name="Regenerate")).to_have_count(0)
        await expect(chat.prompt).to_have_value("A very long question")
        await expect(chat.send).to_be_visible()
        await expect_accessible(page, "a question that is too long")
        await page.reload()
        await expect(chat.prompt).to_have_value("A very long question")


async def test_a_provider_is_not_asked_again_before_it_said(world: World, page: Page) -> None:
    async with Wire(world.server().url) as wire:
        error = _error("provider_rate_limited", retryable=True, retryAfterMs=600_000)
        wire.answer = stream(_START, _TYPING, error)
        chat = ChatPage(page, wire.url)
        await chat.open()
        await chat.ask("One too many")
        retry = chat.banner.get_by_role("button", name="Retry")
        await expect(retry).to_have_text("Retry in 10 min")
        await expect(page.get_by_role("button", name="Regenerate")).to_have_count(0)
        await retry.click(force=True)
        await expect(chat.banner).to_be_visible()
        assert wire.asked_for(b"/api/chat/start") == 1, "not before it may"


async def test_the_page_of_one_file_tells_how_long_a_model_thinks(world: World, page: Page) -> None:
    async with Wire(world.server().url) as wire:
        wire.answer, wire.answer_stays = stream(_START, _TYPING, _THINKING, _LATER), True
        await page.goto(f"{wire.url}/simple.html")
        await page.get_by_label("Model").select_option("fake")
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_role("status")).to_have_text("Thinking…")
        await expect(page.get_by_text("12 s", exact=True)).to_be_visible()
        wire.answer = None
        wire.cut()
        await expect(page.get_by_role("status")).to_have_text("Done (stop).", timeout=60_000)
        await expect(page.get_by_text("12 s", exact=True)).to_have_count(0)
