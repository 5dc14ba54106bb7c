"""Rows 60 and 61: a reply that is being read survives what happens to the page and its network."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.client import eventually
from tests.e2e.chat_page import ChatPage
from tests.e2e.wire import Wire, response
from tests.world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")

_WORDS = 120
# Seconds: half of the page's first pause, which is drawn by lot.
BACKOFF = 0.2
_SLOW: dict[str, Any] = {
    "count": _WORDS,
    "delay": 0.04,
    "numbered": True,
    "tokens": tuple(f" w{n}" for n in range(_WORDS)),
}


async def _whole(chat: ChatPage, world: World) -> None:
    """The reply ends, is the stored one, and says every word once."""
    await chat.finished(timeout=90_000)
    stored = chat.stored(world)
    assert stored["status"] == "complete"
    assert await chat.shown() == stored["text"]
    words = re.findall(r"w\d+", stored["text"])
    assert len(words) == len(set(words)) == _WORDS


async def _reload(page: Page, chat: ChatPage, wire: Wire) -> None:
    await page.reload()
    await chat.some("w20")
    await page.reload()


async def _other_tab(page: Page, chat: ChatPage, wire: Wire) -> None:
    """Put another tab in front, and lose the connection while nobody looks."""
    other = await page.context.new_page()
    await other.goto("about:blank")
    await other.bring_to_front()
    wire.cut()
    await asyncio.sleep(1)
    await page.bring_to_front()
    await other.close()


async def _offline(page: Page, chat: ChatPage, wire: Wire) -> None:
    await page.context.set_offline(True)
    wire.cut()
    await expect(chat.replies.last).to_contain_text("You are offline")
    await asyncio.sleep(1)
    await page.context.set_offline(False)


async def _cut(page: Page, chat: ChatPage, wire: Wire) -> None:
    for word in ("w20", "w40", "w60"):
        await chat.some(word)
        wire.cut()


async def _back_forward_cache(page: Page, chat: ChatPage, wire: Wire) -> None:
    """Go elsewhere and back: the browser has kept the page as it was, without its connection."""
    await page.evaluate("window.kept = true")
    await page.goto(f"{wire.url}/favicon.svg")
    await asyncio.sleep(1)
    await page.go_back(wait_until="commit")
    assert await page.evaluate("window.kept"), "the page came out of the cache"


_EVENTS: dict[str, Callable[[Page, ChatPage, Wire], Awaitable[None]]] = {
    "reload": _reload,
    "tab": _other_tab,
    "offline": _offline,
    "cut": _cut,
    "cache": _back_forward_cache,
}


@pytest.mark.parametrize("what", list(_EVENTS))
async def test_60_a_stream_survives(world: World, page: Page, what: str) -> None:
    model = world.model(f"survives-{what}", **_SLOW)
    async with Wire(world.server().url) as wire:
        chat = ChatPage(page, wire.url, model)
        await chat.open()
        await chat.record()
        await chat.ask("Go on for long")
        await chat.some("w10")
        await _EVENTS[what](page, chat, wire)
        await _whole(chat, world)
        assert wire.asked_for(b"/api/chat/stream") >= 2, "it had to resume"
    assert world.fake.calls(model) == 1
    final = await chat.reply.text_content() or ""
    for text in await chat.recorded():
        assert final.strip().startswith(text), "what is shown is never wrong, not even for a moment"


_ANSWERS = {
    "429": response("429 Too Many Requests", "{}", "Content-Type: application/json", "Retry-After: 1"),
    "502": response("502 Bad Gateway", "<h1>Bad gateway</h1>", "Content-Type: text/html"),
    "type": response("200 OK", "<p>Please sign in to the hotel's network</p>", "Content-Type: text/html"),
}


@pytest.mark.parametrize("answer", list(_ANSWERS))
async def test_61_a_wrong_answer_backs_off_then_resumes(world: World, page: Page, answer: str) -> None:
    model = world.model(f"wrong-{answer}", **_SLOW)
    async with Wire(world.server().url) as wire:
        chat = ChatPage(page, wire.url, model)
        await chat.open()
        wire.answer = _ANSWERS[answer]
        await chat.ask("Go on for long")
        await expect(chat.replies.last).to_contain_text("Reconnecting")
        await eventually(lambda: wire.answered >= 3)
        times = wire.answered_at[:3]
        assert times[1] - times[0] > BACKOFF, "it backs off"
        assert times[2] - times[1] > BACKOFF, "it backs off"
        wire.answer = None
        await _whole(chat, world)
        await expect(chat.banner).to_have_count(0)
    assert world.fake.calls(model) == 1


@pytest.mark.parametrize("answer", list(_ANSWERS))
async def test_61_a_wrong_answer_midway_doubles_nothing(world: World, page: Page, answer: str) -> None:
    model = world.model(f"midway-{answer}", **_SLOW)
    async with Wire(world.server().url) as wire:
        chat = ChatPage(page, wire.url, model)
        await chat.open()
        await chat.ask("Go on for long")
        await chat.some("w10")
        wire.answer = _ANSWERS[answer]
        wire.cut()
        await expect(chat.replies.last).to_contain_text("Reconnecting")
        wire.answer = None
        await _whole(chat, world)
    assert world.fake.calls(model) == 1


@pytest.mark.parametrize("button", ["Reload", "Retry"])
async def test_61_what_stays_wrong_gets_a_banner(world: World, page: Page, button: str) -> None:
    model = world.model(f"stays-{button.lower()}", **_SLOW)
    await page.clock.install()
    async with Wire(world.server().url) as wire:
        chat = ChatPage(page, wire.url, model)
        await chat.open()
        wire.answer = _ANSWERS["502"]
        await chat.ask("Go on for long")
        await chat.pauses_pass(chat.banner)
        await expect(chat.banner).to_contain_text("The connection was lost")
        given_up = wire.answered
        assert given_up > 2, "it has tried again"
        await page.clock.fast_forward(600_000)
        await asyncio.sleep(0.5)
        assert wire.answered == given_up, "it has stopped asking"
        wire.answer = None
        await chat.banner.get_by_role("button", name=button).click()
        await _whole(chat, world)
        await expect(chat.banner).to_have_count(0)
    assert world.fake.calls(model) == 1
