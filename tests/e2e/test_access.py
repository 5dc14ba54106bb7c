"""Row 64: the page works by keyboard alone, for a screen reader, on a phone, and in the dark."""

from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.e2e.axe import expect_accessible
from tests.e2e.chat_page import ChatPage
from tests.world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")

_SLOW: dict[str, Any] = {"tokens": tuple(f" w{n}" for n in range(120)), "delay": 0.04}
_RICH = (
    "## Title\n\n[link](https://a.example) and `code`\n\n> quoted\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
    "- one\n- [x] two\n\n```python\n# why\ndef f(x: int) -> str:\n    return 'a'\n```\n"
)


async def test_64_the_keyboard_is_enough(world: World, page: Page) -> None:
    world.model("slow", **_SLOW)
    server = world.server()
    client = world.client(server, "demo-free")
    await client.ask("An earlier chat")
    chat = ChatPage(page, server.url, "slow")
    await chat.open()
    await page.reload()
    await expect(chat.prompt).to_be_focused()
    await page.keyboard.type("First line")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("second line")
    await page.keyboard.press("Enter")
    await expect(page.locator(".bubble")).to_have_text("First line\nsecond line")
    await expect(chat.prompt).to_be_focused()
    await page.keyboard.press("Tab")
    await expect(page.get_by_label("Model")).to_be_focused()
    await page.keyboard.press("Tab")
    await expect(chat.stop).to_be_focused()
    await page.keyboard.press("Enter")
    await chat.finished()
    await expect(chat.prompt).to_be_focused()
    status = page.get_by_role("status").filter(has_text="The reply was stopped")
    await expect(status).to_have_count(1)
    await page.keyboard.press("Shift+Tab")
    await expect(page.get_by_role("button", name="Regenerate")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(chat.stop).to_be_visible()
    await expect(chat.prompt).to_be_focused()
    await page.get_by_role("link", name="An earlier chat").focus()
    await page.keyboard.press("Enter")
    await expect(page.locator(".bubble")).to_have_text("An earlier chat")
    await expect(chat.prompt).to_be_focused()


async def test_64_the_model_is_chosen_by_keyboard(world: World, page: Page) -> None:
    chat = ChatPage(page, world.server().url)
    await chat.open()
    choice = page.get_by_label("Model")
    await choice.focus()
    await page.keyboard.press("Space")
    demo = page.get_by_role("option", name="Demo Free")
    await expect(demo).to_be_visible()
    await expect(page.get_by_role("option", name="GPT-6.2 Sol (needs Pro)")).to_be_disabled()
    await page.keyboard.press("Escape")
    await expect(demo).not_to_be_visible()
    await expect(choice).to_be_focused()
    await expect(choice).to_have_value("fake")
    await page.keyboard.press("Space")
    await page.keyboard.type("Demo")
    await page.keyboard.press("Enter")
    await expect(choice).to_have_value("demo")
    await expect(choice).to_be_focused()


async def test_64_the_drawer_keeps_and_gives_back_the_focus(world: World, page: Page) -> None:
    server = world.server()
    await world.client(server, "demo-free").ask("An earlier chat")
    await page.set_viewport_size({"width": 375, "height": 740})
    chat = ChatPage(page, server.url)
    await chat.open()
    opener = page.get_by_role("button", name="Open the list of chats")
    await opener.focus()
    await page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Chats")
    await expect(dialog).to_be_visible()
    inside = (
        "document.querySelector('dialog').contains(document.activeElement)"
        " || document.activeElement === document.body"
    )
    for _ in range(9):
        assert await page.evaluate(inside), "the focus stays in the drawer"
        await page.keyboard.press("Tab")
    await page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    await expect(opener).to_be_focused()
    await page.keyboard.press("Enter")
    await page.get_by_role("link", name="An earlier chat").focus()
    await page.keyboard.press("Enter")
    await expect(dialog).to_have_count(0)
    await expect(page.locator(".bubble")).to_have_text("An earlier chat")


_LISTEN = """() => {
  window.said = [];
  const regions = "[role=status], [role=alert], [aria-live]";
  const note = ({ target }) => {
    const region = (target.nodeType === 1 ? target : target.parentElement)?.closest(regions);
    if (region) window.said.push(region.textContent);
  };
  new MutationObserver((list) => list.forEach(note))
    .observe(document.body, { childList: true, characterData: true, subtree: true });
}"""


async def test_64_a_screen_reader_hears_the_reply_once(world: World, page: Page) -> None:
    world.model("slow", **_SLOW)
    chat = ChatPage(page, world.server().url, "slow")
    await chat.open()
    await page.evaluate(_LISTEN)
    await chat.ask("Go on for long")
    await chat.finished()
    await expect(page.get_by_role("status").filter(has_text="The reply is complete")).to_have_count(1)
    said = list(dict.fromkeys(await page.evaluate("window.said")))
    assert len(said) == 2, said
    assert said[0] == "The reply is being written."
    assert said[1].endswith("w119"), "the whole of it, at its end"
    polite = page.locator("[aria-live=assertive]")
    await expect(polite).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 768, 1440])
async def test_64_axe_finds_nothing(world: World, page: Page, scheme: str, width: int) -> None:
    world.model("rich", tokens=(_RICH,))
    world.model("slow", **_SLOW)
    world.model("broken", tokens=("Half of ", "a reply"), fault="reset", fault_after=1)
    await page.set_viewport_size({"width": width, "height": 800})
    await page.emulate_media(color_scheme="light" if scheme == "light" else "dark", reduced_motion="reduce")
    server = world.server()
    chat = ChatPage(page, server.url, "rich")
    await chat.open()
    await expect_accessible(page, "an empty chat")
    await page.get_by_label("Model").press("Space")
    await expect(page.get_by_role("option", name="Demo Free")).to_be_visible()
    await expect_accessible(page, "the open list of models")
    await page.keyboard.press("Escape")
    await chat.ask("Something rich")
    await chat.finished()
    await expect(page.locator(".hljs-keyword").first).to_be_visible()
    await expect_accessible(page, "a rich reply")
    await page.get_by_label("Model").select_option("slow")
    await chat.ask("Something slow")
    await chat.some()
    await expect_accessible(page, "a reply that is being written")
    assert await page.evaluate("document.getAnimations().length") == 0, "nothing moves"
    await chat.stop.click()
    await chat.finished()
    await page.get_by_label("Model").select_option("broken")
    await chat.ask("Something that breaks")
    await expect(chat.banner).to_be_visible()
    await expect_accessible(page, "a banner")
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
    if width < 960:
        await page.get_by_role("button", name="Open the list of chats").click()
        await expect(page.get_by_role("dialog").get_by_role("link", name="New chat")).to_be_visible()
        await expect_accessible(page, "the drawer")
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("dialog")).to_have_count(0)
    await page.goto(f"{server.url}/chat/nowhere")
    await expect(page.get_by_role("heading", name="There is no such chat here")).to_be_visible()
    await expect_accessible(page, "a chat that is not there")
