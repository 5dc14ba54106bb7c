"""Two tabs of one chat: what one asked is nothing that the other answers again, or asks after, unseen."""

import pytest
from playwright.async_api import Page, expect

from local.fake_provider import reply_to
from tests.e2e.chat_page import ChatPage
from tests.world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def _two_tabs(world: World, page: Page, model: str) -> tuple[ChatPage, ChatPage]:
    """Return two tabs of a chat in which ONE? was asked, and then TWO? in the second tab."""
    url = world.server().url
    first = ChatPage(page, url, world.model(model))
    await first.open()
    await first.ask("ONE?")
    await first.finished()
    second = ChatPage(await page.context.new_page(), url, model)
    await second.open(first.chat_id)
    await second.ask("TWO?")
    await second.finished()
    await page.bring_to_front()
    await expect(page.locator(".bubble")).to_have_text(["ONE?"])
    return first, second


async def test_98_a_tab_that_regenerates_what_is_no_end_any_more_shows_what_is_new(
    world: World, page: Page
) -> None:
    first, _ = await _two_tabs(world, page, "tabs")
    await page.get_by_role("button", name="Regenerate").click()
    await expect(first.banner).to_contain_text("Not sent: there is something new here")
    await expect(page.locator(".bubble")).to_have_text(["ONE?", "TWO?"])
    await expect(first.replies).to_have_count(2)
    assert await first.shown() == reply_to("TWO?")
    assert world.fake.calls("tabs") == 2
    assert world.sql("select count(*) from messages where superseded_by is not null") == [(0,)]
    # The same button now stands at TWO's reply, and answers TWO.
    await page.get_by_role("button", name="Regenerate").click()
    await expect(first.banner).to_have_count(0)
    await first.finished()
    assert await first.shown() == reply_to("TWO?")
    assert world.fake.calls("tabs") == 3


async def test_what_another_tab_asked_is_shown_when_this_one_is_looked_at_again(
    world: World, page: Page
) -> None:
    first, second = await _two_tabs(world, page, "looked-at")
    again = "document.dispatchEvent(new Event('visibilitychange'))"
    await page.evaluate(again)
    await expect(page.locator(".bubble")).to_have_text(["ONE?", "TWO?"])
    assert await first.shown() == reply_to("TWO?")
    # While the other tab's question is answered, this one reads along.
    world.model("looked-at", count=200, delay=0.05)
    await second.page.bring_to_front()
    await second.ask("THREE?")
    await second.some()
    await page.bring_to_front()
    await page.evaluate(again)
    await expect(page.locator(".bubble")).to_have_text(["ONE?", "TWO?", "THREE?"])
    await first.some()
    await first.stop.click()
    await first.finished()
    await second.finished()
    assert await first.shown() == await second.shown()
    assert world.fake.calls("looked-at") == 1


async def test_98_a_tab_that_asks_after_what_it_has_not_seen_keeps_its_draft(
    world: World, page: Page
) -> None:
    first, second = await _two_tabs(world, page, "drafts")
    await first.prompt.fill("THREE?")
    await first.prompt.press("Enter")
    await expect(first.banner).to_contain_text("Not sent: there is something new here")
    await expect(page.locator(".bubble")).to_have_text(["ONE?", "TWO?"])
    await expect(first.prompt).to_have_value("THREE?")
    await page.reload()
    await expect(first.prompt).to_have_value("THREE?")
    await expect(page.locator(".bubble")).to_have_text(["ONE?", "TWO?"])
    await page.get_by_label("Model").select_option("drafts")
    await first.prompt.press("Enter")
    await expect(page.locator(".bubble")).to_have_text(["ONE?", "TWO?", "THREE?"])
    await first.finished()
    assert await first.shown() == reply_to("THREE?")
    # And the other way round, where the other tab knows only TWO.
    await second.page.bring_to_front()
    await second.page.get_by_role("button", name="Regenerate").click()
    await expect(second.page.locator(".bubble")).to_have_text(["ONE?", "TWO?", "THREE?"])
    assert world.fake.calls("drafts") == 3
