"""What the page does for whoever writes: drafts, models, copies, another try, and limits to be waited out."""

import asyncio
import re

import pytest
from playwright.async_api import Page, Request, Route, expect

from tests.client import text_of
from tests.e2e.chat_page import ChatPage
from tests.e2e.wire import Wire, response
from tests.world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")

_CODE = "def f():\n    return 1\n"


async def test_a_draft_is_kept_for_each_chat(world: World, page: Page) -> None:
    server = world.server()
    started, _ = await world.client(server, "demo-free").ask("An earlier chat")
    chat = ChatPage(page, server.url)
    await chat.open(started["chatId"])
    await chat.prompt.fill("For the earlier chat\nin two lines")
    await page.get_by_role("link", name="New chat").click()
    await expect(chat.prompt).to_have_value("")
    await expect(chat.prompt).to_be_focused()
    await chat.prompt.fill("For a new chat")
    await page.reload()
    await expect(chat.prompt).to_have_value("For a new chat")
    await page.get_by_role("link", name="An earlier chat").click()
    await expect(chat.prompt).to_have_value("For the earlier chat\nin two lines")
    await chat.prompt.press("Enter")
    await expect(page.locator(".bubble")).to_have_count(2)
    await chat.finished()
    await page.reload()
    await expect(chat.prompt).to_have_value("")


async def test_a_question_whose_page_was_left_before_its_answer_is_asked_once(
    world: World, page: Page
) -> None:
    model = world.model("asked-once")
    chat = ChatPage(page, world.server().url, model)
    await chat.open()
    left = asyncio.Event()

    async def lose_the_first_answer(route: Route) -> None:
        if left.is_set():
            await route.continue_()
            return
        # The server has it, and its answer finds nobody.
        await route.fetch()
        left.set()

    await page.route("**/chat/start", lose_the_first_answer)
    await chat.ask("Is this asked twice?")
    await left.wait()
    await chat.open()
    await expect(chat.prompt).to_have_value("Is this asked twice?")
    await chat.prompt.press("Enter")
    await chat.finished()
    await expect(page.locator(".bubble")).to_have_count(1)
    assert world.sql("select count(*) from chats") == [(1,)]
    assert world.fake.calls(model) == 1
    # Taken, it is a question like any other when it is written again.
    await page.get_by_role("link", name="New chat").click()
    await chat.ask("Is this asked twice?")
    await chat.finished()
    assert world.sql("select count(*) from chats") == [(2,)]


async def test_the_input_grows_with_what_is_written(world: World, page: Page) -> None:
    chat = ChatPage(page, world.server().url)
    await chat.open()
    one = await chat.prompt.evaluate("e => e.clientHeight")
    await chat.prompt.fill("\n".join("abcd"))
    four = await chat.prompt.evaluate("e => e.clientHeight")
    assert four >= one + 60
    await chat.prompt.fill("\n" * 60)
    assert await chat.prompt.evaluate("e => e.clientHeight <= innerHeight * 0.4"), "up to a point"


async def test_each_chat_remembers_its_model(world: World, page: Page) -> None:
    world.model("other")
    server = world.server()
    chat = ChatPage(page, server.url)
    choice = page.get_by_label("Model")
    await chat.open()
    await chat.ask("With the one")
    await chat.finished()
    await page.get_by_role("link", name="New chat").click()
    await choice.select_option("other")
    await chat.ask("With the other")
    await chat.finished()
    assert world.sql("select model_id from messages where role = 'assistant' order by created_at") == [
        ("fake",),
        ("other",),
    ]
    await page.get_by_role("link", name="With the one").click()
    await expect(choice).to_have_value("fake")
    await page.reload()
    await expect(choice).to_have_value("fake")
    await page.get_by_role("link", name="With the other").click()
    await expect(choice).to_have_value("other")
    # Another browser has only the history to go by.
    assert page.context.browser is not None
    context = await page.context.browser.new_context()
    elsewhere = await context.new_page()
    await elsewhere.goto(page.url)
    await expect(elsewhere.get_by_label("Model")).to_have_value("other")
    await context.close()


async def test_models_beyond_the_plan_are_shown_and_cannot_be_chosen(world: World, page: Page) -> None:
    chat = ChatPage(page, world.server().url)
    await chat.open()
    choice = page.get_by_label("Model")
    await expect(choice.locator("option:disabled").first).to_have_text(re.compile(r"\(needs Pro\)$"))
    await expect(choice.locator("option[value=gpt]")).to_be_disabled()
    await page.get_by_label("Demo user").select_option("demo-pro")
    await expect(choice.locator("option[value=gpt]")).to_be_enabled()


async def test_code_and_replies_are_copied(world: World, page: Page) -> None:
    text = f"Some **code**:\n\n```python\n{_CODE}```\n\nThat is it."
    world.model("coder", tokens=(text,))
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chat = ChatPage(page, world.server().url, "coder")
    await chat.open()
    await chat.ask("Code, please")
    await chat.finished()
    await expect(page.locator(".code-head")).to_contain_text("python")
    await page.get_by_role("button", name="Copy code").click()
    await expect(page.locator(".code-head")).to_contain_text("Copied")
    assert (await page.evaluate("navigator.clipboard.readText()")).rstrip("\n") == _CODE.rstrip("\n")
    await page.get_by_role("button", name="Copy", exact=True).click()
    assert await page.evaluate("navigator.clipboard.readText()") == text


async def test_a_reply_is_asked_for_anew(world: World, page: Page) -> None:
    model = world.model("anew", count=5, numbered=True)
    server = world.server()
    chat = ChatPage(page, server.url, model)
    await chat.open()
    await chat.ask("Say something")
    await chat.finished()
    first = await chat.shown()
    await page.get_by_role("button", name="Regenerate").click()
    await expect(chat.reply).not_to_have_text(first)
    await chat.finished()
    assert await chat.shown() == chat.stored(world)["text"] != first
    await expect(chat.replies).to_have_count(1)
    await expect(page.locator(".bubble")).to_have_count(1)
    assert world.fake.calls(model) == 2, "past the cache"
    await page.reload()
    await expect(chat.replies).to_have_count(1)
    page_of = await world.client(server, "demo-free").history(chat.chat_id)
    superseded = [message for message in page_of["messages"] if message["supersededBy"]]
    assert [" ".join(text_of(message).split()) for message in superseded] == [first]


_LIMITED = response(
    "429 Too Many Requests",
    '{"error": {"code": "rate_limited", "message": "Too many questions in a minute.", "retryable": true,'
    ' "limit": 10, "remaining": 0}}',
    "Content-Type: application/json",
    "Retry-After: 6",
)


async def test_a_limit_is_waited_out_and_the_same_question_sent(world: World, page: Page) -> None:
    async with Wire(world.server().url) as wire:
        wire.answer_path = b"/api/chat/start"
        keys: list[str | None] = []

        async def note(request: Request) -> None:
            if request.url.endswith("/chat/start"):
                keys.append(await request.header_value("idempotency-key"))

        page.on("request", note)
        chat = ChatPage(page, wire.url)
        await chat.open()
        wire.answer = _LIMITED
        await chat.ask("One too many")
        await expect(chat.banner).to_contain_text("Too many questions in a minute.")
        await expect(page.get_by_text("Not sent", exact=True)).to_be_visible()
        wire.answer = None
        retry = chat.banner.get_by_role("button", name="Retry")
        await expect(retry).to_have_text(re.compile(r"Retry in [1-6] s"))
        await retry.click(force=True)
        assert len(keys) == 1, "not before it may"
        await expect(retry).to_have_text("Retry")
        await retry.click()
        await chat.finished()
        await expect(chat.banner).to_have_count(0)
        assert len(keys) == 2
        assert keys[0] == keys[1] is not None
    assert world.sql("select count(*) from messages where role = 'user'") == [(1,)]


async def test_a_question_that_was_not_sent_is_never_lost(world: World, page: Page) -> None:
    async with Wire(world.server().url) as wire:
        wire.answer_path = b"/api/chat/start"
        wire.answer = _LIMITED
        chat = ChatPage(page, wire.url)
        await chat.open()
        await chat.ask("A question of some worth")
        await expect(chat.banner).to_be_visible()
        await page.reload()
        await expect(chat.prompt).to_have_value("A question of some worth")
        await chat.prompt.press("Enter")
        await chat.banner.get_by_role("button", name="Dismiss").click()
        await expect(chat.prompt).to_have_value("A question of some worth")
        await expect(page.locator(".bubble")).to_have_count(0)
        wire.answer = None
        await chat.prompt.press("Enter")
        await chat.finished()


async def test_enter_before_the_page_is_ready_sends_once_it_is(world: World, page: Page) -> None:
    async with Wire(world.server().url) as wire:
        wire.answer_path = b"/api/chat/models"
        wire.answer = response(
            "503 Service Unavailable", "{}", "Content-Type: application/json", "Retry-After: 1"
        )
        chat = ChatPage(page, wire.url)
        await page.goto(f"{wire.url}/chat")
        await chat.prompt.fill("In a hurry")
        await chat.prompt.press("Enter")
        await expect(page.locator(".bubble")).to_have_count(0)
        wire.answer = None
        await expect(page.locator(".bubble")).to_have_text("In a hurry")
        await chat.finished()
        await expect(chat.prompt).to_have_value("")
    assert world.sql("select count(*) from messages where role = 'user'") == [(1,)]
