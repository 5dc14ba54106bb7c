"""Long replies and long chats: drawn smoothly, followed only by who is at their end, loaded by pages."""

from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.client import eventually
from tests.e2e.axe import expect_accessible
from tests.e2e.chat_page import ChatPage
from tests.e2e.frames import TOKENS, Watch, reply
from tests.world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")

_LINES: dict[str, Any] = {"tokens": tuple(f"Line {n}.\n\n" for n in range(2000)), "delay": 0.03}


async def test_ten_thousand_tokens_at_full_speed_keep_the_page_alive(world: World, page: Page) -> None:
    # 4,000 tokens a second, so that there are pictures to count.
    world.model("fast", tokens=reply(), tokens_per_write=20, delay=0.005)
    chat = ChatPage(page, world.server().url, "fast")
    await chat.open()
    watch = Watch(page)
    await watch.begin()
    await chat.ask("As fast as you can")
    frames = await watch.end()
    await chat.finished()
    stored = chat.stored(world)
    assert stored["status"] == "complete"
    assert len("".join(stored["text"].split())) == len("".join("".join(reply()).split())), TOKENS
    # It was drawn while it came. How smoothly is what `make web-bench` measures.
    assert len(frames.gaps) > 5, frames


async def test_the_page_follows_a_reply_only_from_its_end(world: World, page: Page) -> None:
    world.model("lines", **_LINES)
    chat = ChatPage(page, world.server().url, "lines")
    await chat.open()
    await chat.ask("Many lines")
    scroller = page.locator(".scroller")
    behind = "e => Math.round(e.scrollHeight - e.scrollTop - e.clientHeight)"
    await chat.some("Line 40.")
    assert await scroller.evaluate(behind) <= 1, "it follows"
    to_end = page.get_by_role("button", name="Go to the latest message")
    await expect(to_end).to_have_count(0)
    await scroller.hover()
    await page.mouse.wheel(0, -400)
    await expect(to_end).to_be_visible()
    top = await scroller.evaluate("e => e.scrollTop")
    await chat.some("Line 80.")
    assert await scroller.evaluate("e => e.scrollTop") == top, "it leaves who reads elsewhere alone"
    await to_end.click()
    await expect(to_end).to_have_count(0)
    await chat.some("Line 120.")
    await eventually(lambda: _at_end(page))
    await chat.stop.click()
    await chat.finished()


async def _at_end(page: Page) -> bool:
    end: bool = await page.locator(".scroller").evaluate(
        "e => e.scrollHeight - e.scrollTop - e.clientHeight <= 1"
    )
    return end


_TOP = "element => element.getBoundingClientRect().top"
_TURN = """**Reply {n}** has a list:

- one
- two, with `code`

```python
print({n})
```
"""


def _thousand_messages(world: World) -> str:
    """Write a chat of 1,000 messages of the free demo user; return its id."""
    chat_id = "a-chat-of-a-thousand"
    world.sql(
        "insert into chats (id, owner_id, title, model_id, next_position)"
        " values (%s, 'demo-free', 'A long chat', 'fake', 1001)",
        chat_id,
    )
    world.sql(
        "insert into messages (id, chat_id, position, role, status, parts, model_id)"
        " select 'm' || n, %s, n, case n %% 2 when 1 then 'user' else 'assistant' end, 'complete',"
        "  jsonb_build_array(jsonb_build_object('type', 'text', 'text', case n %% 2 when 1"
        "   then 'Question ' || n else replace(%s, '{n}', n::text) end)), 'fake'"
        " from generate_series(1, 1000) n",
        chat_id,
        _TURN,
    )
    return chat_id


async def test_a_thousand_messages_load_by_pages_and_scroll(world: World, page: Page) -> None:
    chat_id = _thousand_messages(world)
    chat = ChatPage(page, world.server().url)
    await chat.open(chat_id)
    messages = page.locator(".message")
    await expect(messages).to_have_count(50)
    await expect(chat.replies.last).to_be_in_viewport()
    await expect(chat.reply).to_contain_text("Reply 1000")
    scroller = page.locator(".scroller")
    for loaded in range(100, 1001, 50):
        await scroller.evaluate("e => e.scrollTo(0, 40)")
        # What is read stays where it is while a page comes in above it.
        first = page.get_by_text(f"Question {1001 - loaded + 50}", exact=True)
        before = await first.evaluate(_TOP)
        await expect(messages).to_have_count(loaded)
        assert abs(await first.evaluate(_TOP) - before) < 4, loaded
    await scroller.evaluate("e => e.scrollTo(0, 0)")
    await expect(page.get_by_text("Question 1", exact=True)).to_be_in_viewport()
    await expect(page.get_by_role("button", name="Earlier messages")).to_have_count(0)
    await scroller.hover()
    for _ in range(5):
        before = await scroller.evaluate("e => e.scrollTop")
        await page.mouse.wheel(0, 900)
        await page.wait_for_function(
            "before => document.querySelector('.scroller').scrollTop > before", arg=before
        )
    # All of them are on the page, and the next reply is drawn as in a short chat.
    world.model("fast", tokens=reply()[:2000], tokens_per_write=10, delay=0.005)
    await page.reload()
    await page.get_by_label("Model").select_option("fake")
    await chat.ask("One more")
    await chat.finished()
    await expect(page.locator(".bubble").last).to_be_in_viewport()


async def test_the_page_shows_from_where_on_a_long_chat_was_sent(world: World, page: Page) -> None:
    model = world.model("narrow")
    world.sql("update models set context_characters = 70 where id = %s", model)
    chat = ChatPage(page, world.server().url, model)
    await chat.open()
    mark = page.locator(".context-mark")
    for prompt in ("One?", "Two, and some more words?"):
        await chat.ask(prompt)
        await chat.finished()
        await expect(mark).to_have_count(0)
    await chat.ask("Three?")
    await chat.finished()
    await expect(mark).to_have_text("The 2 messages above were too much for the model, and not sent")
    await expect(page.locator(".context-mark + .message .bubble")).to_have_text("Two, and some more words?")
    await expect_accessible(page, "a context that is not whole")
