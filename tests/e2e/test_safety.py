"""Rows 62 and 63: what a model writes is only text, and only listed origins may ask."""

import json
from pathlib import Path

import pytest
from playwright.async_api import Page, Request, expect

from tests.e2e.chat_page import ChatPage
from tests.e2e.wire import Wire, response
from tests.world import World

pytestmark = pytest.mark.asyncio(loop_scope="session")

_POLICY = Path(__file__).resolve().parents[2] / "web" / "csp.json"
_HOSTILE = (
    "<script>window.hacked = 1</script>\n\n"
    "<img src=x onerror=\"window.hacked = 2\"> <svg onload='window.hacked = 3'>\n\n"
    "[press](javascript:window.hacked=4) [or](data:text/html,x) [in](/chat/elsewhere)\n\n"
    "[encoded](java&#115;cript:window.hacked=6) [by name][ref]\n\n"
    "![tracker](https://evil.example/pixel.png) <https://evil.example/seen>\n\n"
    "![of this site](/favicon.svg) ![inline](data:image/svg+xml,<svg/onload=alert(1)>)\n\n"
    "<iframe src='https://evil.example'></iframe><style>*{background:url(https://evil.example/css)}</style>\n\n"
    "| <img src=x onerror=window.hacked=7> |\n|---|\n| ![cell](https://evil.example/cell.png) |\n\n"
    "```html\n<script>window.hacked = 5</script>\n```\n\n"
    "[ref]: javascript:window.hacked=8\n"
)


async def test_62_hostile_markdown_is_inert(world: World, page: Page) -> None:
    # In small pieces, since half of something hostile is another thing.
    pieces = tuple(_HOSTILE[at : at + 3] for at in range(0, len(_HOSTILE), 3))
    world.model("evil", tokens=pieces, delay=0.005)
    server = world.server()
    requests: list[str] = []

    def note(request: Request) -> None:
        requests.append(request.url)

    page.on("request", note)
    chat = ChatPage(page, server.url, "evil")
    await chat.open()
    await chat.ask("Be evil")
    await chat.finished()
    for _ in range(2):
        await expect(chat.reply).to_contain_text("<script>window.hacked = 1</script>")
        assert await page.evaluate("window.hacked") is None
        inert = chat.reply.locator("script, img, svg[onload], iframe, style, [onerror], [onload], [style]")
        await expect(inert).to_have_count(0)
        links = await chat.reply.locator("a").evaluate_all(
            "links => links.map(({href, rel, target}) => [href, rel, target])"
        )
        assert [href for href, _, _ in links] == [
            "https://evil.example/pixel.png",
            "https://evil.example/seen",
            "https://evil.example/cell.png",
        ]
        assert {(rel, target) for _, rel, target in links} == {("noopener noreferrer nofollow", "_blank")}
        # The same from the history.
        await page.reload()
    assert [url for url in requests if not url.startswith(server.url)] == []
    # A question is text, too.
    await chat.ask("<img src=x onerror=alert(1)> **not bold**")
    await expect(page.locator(".bubble img, .bubble strong")).to_have_count(0)


async def test_62_a_link_is_opened_without_a_way_back(world: World, page: Page) -> None:
    async with Wire("http://127.0.0.1:1") as elsewhere:
        elsewhere.answer_path = b"/"
        elsewhere.answer = response("200 OK", "<p>Elsewhere</p>", "Content-Type: text/html")
        world.model("linking", tokens=(f"See [there]({elsewhere.url}/page)",))
        chat = ChatPage(page, world.server().url, "linking")
        await chat.open()
        await chat.ask("Where?")
        await chat.finished()
        async with page.expect_popup() as opened:
            await page.get_by_role("link", name="there").click()
        popup = await opened.value
        await expect(popup.locator("p")).to_have_text("Elsewhere")
        assert await popup.evaluate("[opener, document.referrer]") == [None, ""]


async def test_62_a_link_that_names_another_host_tells_where_it_leads(world: World, page: Page) -> None:
    world.model(
        "luring",
        tokens=("[https://bank.example](https://evil", ".example/login) and [there](https://a.example)"),
    )
    chat = ChatPage(page, world.server().url, "luring")
    await chat.open()
    await chat.ask("Where is my bank?")
    await chat.finished()
    links = chat.reply.get_by_role("link")
    await expect(links).to_have_text(["https://bank.example (evil.example)", "there"])
    await expect(links.locator(".host")).to_be_visible()


async def test_62_the_policy_stops_what_slips_through(world: World, page: Page) -> None:
    server = world.server()
    rules = json.loads(_POLICY.read_text("utf-8"))
    policy = "; ".join(f"{name} {' '.join(sources)}" for name, sources in rules.items())
    assert rules["connect-src"] == ["'self'"]
    assert "unsafe" not in policy
    plain = await page.context.new_page()
    for path in ("chat", "chat/some-chat", "simple.html", "sign-in.html"):
        answer = await plain.goto(f"{server.url}/{path}")
        assert answer is not None
        assert answer.headers["content-security-policy"] == policy, path
        sink = "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hacked = 1\">')"
        refused = await plain.evaluate(
            f"() => {{ try {{ {sink} }} catch (error) {{ return String(error) }} }}"
        )
        assert "TrustedHTML" in refused, path
        reached = await plain.evaluate("fetch('https://evil.example/').then(() => 'sent', () => 'refused')")
        assert reached == "refused", path
        assert await plain.evaluate("window.hacked") is None


_ASK = """async (api) => {
  const start = await fetch(`${api}/start`, {
    method: "POST",
    headers: { "Content-Type": "application/json", "Idempotency-Key": "from-elsewhere" },
    body: JSON.stringify({ prompt: "From elsewhere", modelId: "fake", userId: "demo-free" }),
  });
  const { sessionId, chatId } = await start.json();
  const stream = await fetch(`${api}/stream?sessionId=${sessionId}`);
  const history = await fetch(`${api}/history?userId=demo-free&chatId=${chatId}`);
  return [start.status, (await stream.text()).includes('"done"'), history.status];
}"""


async def test_63_only_listed_origins_may_ask(world: World, page: Page) -> None:
    async with Wire("http://127.0.0.1:1") as listed, Wire("http://127.0.0.1:1") as other:
        for site in (listed, other):
            site.answer_path = b"/"
            site.answer = response("200 OK", "<p>A site</p>", "Content-Type: text/html")
        server = world.server(ALLOWED_ORIGINS=listed.url)
        await page.goto(listed.url)
        assert await page.evaluate(_ASK, f"{server.url}/api/chat") == [201, True, 200]
        asked = world.sql("select count(*) from sessions")
        await page.goto(other.url)
        ask = f"api => ({_ASK})(api).catch(error => String(error))"
        assert "Failed to fetch" in await page.evaluate(ask, f"{server.url}/api/chat")
        read = "url => fetch(url).then(({status}) => status, () => 'refused')"
        assert await page.evaluate(read, f"{server.url}/api/chat/models?userId=demo-free") == "refused"
        assert world.sql("select count(*) from sessions") == asked
        name = "access-control-allow-origin"
        for origin, expected in ((listed.url, [listed.url]), (other.url, []), ("null", [])):
            for path in ("chat/models?userId=demo-free", "chat/stream?sessionId=unknown"):
                answer = await page.request.get(f"{server.url}/api/{path}", headers={"origin": origin})
                found = [header["value"] for header in answer.headers_array if header["name"].lower() == name]
                assert found == expected, path
