"""The five things that the page must do, in Chromium, against a real server."""

import asyncio
import re
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.e2e.chat_page import ChatPage
from tests.e2e.wire import Wire, response
from tests.world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")

_LONG: dict[str, Any] = {"count": 4000, "delay": 0.02}


async def test_a_new_chat_streams_and_is_saved(world: World, page: Page) -> None:
    world.model("new", first_delay=3.0, delay=0.05)
    chat = ChatPage(page, world.server().url, "new")
    await chat.open()
    await expect(page.get_by_role("heading", name="What shall we talk about?")).to_be_visible()
    await chat.ask("one two three four five six seven eight nine ten")
    await expect(chat.stop).to_be_visible()
    await expect(page.get_by_text("Thinking")).to_be_attached()
    await chat.record()
    await chat.some("two")
    await expect(page.get_by_text("Thinking")).to_have_count(0)
    await chat.finished()
    assert len(await chat.recorded()) >= 3, "it comes bit by bit"
    stored = chat.stored(world)
    assert stored["status"] == "complete"
    assert await chat.shown() == stored["text"]
    await expect(chat.replies.last).to_contain_text(re.compile(r"From the model\s*\d+ tokens"))
    await expect(
        page.get_by_role("navigation", name="Chats").get_by_role("link", name="one two")
    ).to_be_visible()
    await expect(chat.prompt).to_be_focused()


async def test_history_is_loaded_and_goes_on(world: World, page: Page) -> None:
    server = world.server()
    client = world.client(server, "demo-free")
    started, _ = await client.ask("The first question")
    for number in range(2, 31):
        await client.ask(f"Question {number}", chatId=started["chatId"])
    chat = ChatPage(page, server.url)
    await chat.open(started["chatId"])
    await expect(page.locator(".bubble").last).to_have_text("Question 30")
    await expect(page.locator(".bubble").last).to_be_in_viewport()
    # Scrolling up brings the earlier ones, and what is read stays where it is.
    scroller = page.locator(".scroller")
    for _ in range(8):
        await scroller.evaluate("element => element.scrollTo(0, 0)")
        await asyncio.sleep(0.3)
    await expect(page.locator(".bubble").first).to_have_text("The first question")
    await expect(page.locator(".bubble")).to_have_count(30)
    await chat.ask("One more")
    await chat.finished()
    await expect(page.locator(".bubble").last).to_be_in_viewport()


async def test_a_chat_that_cannot_be_loaded_is_tried_again(world: World, page: Page) -> None:
    server = world.server()
    started, _ = await world.client(server, "demo-free").ask("The first question")
    async with Wire(server.url) as wire:
        wire.answer_path = b"/api/chat/history"
        wire.answer = response("503 Service Unavailable", "{}", "Content-Type: application/json")
        chat = ChatPage(page, wire.url)
        await chat.open(started["chatId"])
        await expect(page.get_by_role("status").filter(has_text="Loading the chat")).to_be_visible()
        await expect(chat.banner).to_contain_text("The chat could not be loaded")
        await expect(chat.banner.get_by_role("button", name="Reload")).to_be_visible()
        wire.answer = None
        await chat.banner.get_by_role("button", name="Retry").click()
        await expect(page.locator(".bubble")).to_have_text("The first question")
        await expect(chat.banner).to_have_count(0)


async def test_the_same_question_is_answered_from_the_cache(world: World, page: Page) -> None:
    world.model("cached", numbered=True)
    chat = ChatPage(page, world.server().url, "cached")
    await chat.open()
    await chat.ask("What is AI?")
    await chat.finished()
    first = await chat.shown()
    await page.get_by_role("link", name="New chat").click()
    await expect(page.locator(".message")).to_have_count(0)
    await chat.ask("What is AI?")
    await chat.finished()
    await expect(chat.replies.last).to_contain_text("From cache")
    assert await chat.shown() == first
    assert chat.stored(world)["source"] == "cache"
    assert world.fake.calls("cached") == 1
    await page.reload()
    await expect(chat.replies.last).to_contain_text("From cache")


async def test_a_killed_server_shows_a_banner_and_a_reload_works(world: World, page: Page) -> None:
    world.model("slow", count=100, delay=0.05, numbered=True)
    server = world.server(LEASE_SECONDS="2")
    await page.clock.install()
    async with Wire(server.url) as wire:
        chat = ChatPage(page, wire.url, "slow")
        await chat.open()
        await chat.ask("Go on for long")
        await chat.some()
        server.kill()
        await expect(chat.replies.last).to_contain_text("Reconnecting")
        await chat.pauses_pass(chat.banner)
        await expect(chat.banner).to_contain_text("The connection was lost")
        wire.target = world.server(LEASE_SECONDS="2").url
        await chat.banner.get_by_role("button", name="Reload").click()
        await chat.finished(timeout=90_000)
        stored = chat.stored(world)
        assert stored["status"] == "complete"
        assert await chat.shown() == stored["text"]
        await expect(chat.banner).to_have_count(0)
        await page.get_by_label("Model").select_option("fake")
        await chat.ask("And one more")
        await chat.finished()
        assert chat.stored(world)["status"] == "complete"


async def test_stopped_midway_saved_and_asked_again(world: World, page: Page) -> None:
    world.model("slow", **_LONG)
    chat = ChatPage(page, world.server().url, "slow")
    await chat.open()
    await chat.ask("Go on for long")
    await chat.some(re.compile(r"\w+ \w+"))
    await chat.stop.click()
    await chat.finished()
    await expect(chat.replies.last).to_contain_text("Stopped")
    stored = chat.stored(world)
    assert stored["status"] == "stopped"
    assert stored["text"]
    assert await chat.shown() == stored["text"]
    await page.reload()
    await expect(chat.replies.last).to_contain_text("Stopped")
    assert await chat.shown() == stored["text"]
    world.fake.script("slow")
    await chat.ask("And now something short")
    await chat.finished()
    assert chat.stored(world)["status"] == "complete"
    await expect(chat.replies).to_have_count(2)


async def test_the_page_of_one_file_asks_resumes_and_stops(world: World, page: Page) -> None:
    async with Wire(world.server(DEMO_TOKENS_PER_SECOND="20").url) as wire:
        await page.goto(f"{wire.url}/simple.html")
        await page.get_by_label("Model").select_option("demo")
        await page.get_by_label("Your question").fill("Tell me 500 words")
        await page.get_by_role("button", name="Send").click()
        reply = page.get_by_role("region", name="Reply")
        await expect(reply).to_contain_text("demo model")
        wire.cut()
        await expect(page.get_by_role("status")).to_contain_text("Reconnecting")
        await expect(reply).to_contain_text("know nothing")
        await page.get_by_role("button", name="Stop").click()
        await expect(page.get_by_role("status")).to_have_text("Done (stopped).")
        [(parts,)] = world.sql("select parts from messages where role = 'assistant'")
        assert await reply.text_content() == parts[0]["text"]


async def test_the_page_of_one_file_resumes_after_a_wrong_answer(world: World, page: Page) -> None:
    world.model("slow", count=300, delay=0.04)
    async with Wire(world.server().url) as wire:
        await page.goto(f"{wire.url}/simple.html")
        await page.get_by_label("Model").select_option("slow")
        await page.get_by_role("button", name="Send").click()
        reply = page.get_by_role("region", name="Reply")
        await expect(reply).to_contain_text(re.compile(r"\w+ \w+"))
        wire.answer = response("502 Bad Gateway", "<h1>Bad gateway</h1>", "Content-Type: text/html")
        wire.cut()
        await expect(page.get_by_role("status")).to_contain_text("The connection was lost; trying again")
        wire.answer = None
        await expect(page.get_by_role("status")).to_have_text("Done (stop).", timeout=90_000)
        [(parts,)] = world.sql("select parts from messages where role = 'assistant'")
        assert await reply.text_content() == parts[0]["text"]
