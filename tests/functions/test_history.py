"""The history function: reads over HTTP, and through its handler."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from parley.domain.conversation import Reply
from parley.domain.events import Completed, Failed, FinishReason, Usage
from tests.functions.in_process import CONTEXT, Site, body_of, event, history, lambda_world, site
from tests.in_memory import World

STOP = Completed(FinishReason.STOP, "end_turn", Usage(3, 4))


@pytest.fixture(params=[False, True], ids=["handler", "documented"])
async def here(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    async with site(history.OPERATIONS, documented=request.param) as made:
        yield made


async def get(here: Site, path: str, **query: Any) -> Any:
    response = await here.http.get(path, params={"userId": "ada"} | query)
    assert response.status_code == 200
    return response.json()


async def turn(world: World, prompt: str, end: Completed | Failed = STOP, chat_id: str | None = None) -> str:
    process = world.process()
    started = await process.start(prompt, chat_id=chat_id)
    await process.store.finish(started.session_id, Reply(1, f"About {prompt}", end), "provider")
    return started.chat_id


async def test_a_chat_as_the_wire_has_it(here: Site) -> None:
    chat = await turn(here.world, "One?")
    await turn(here.world, "Two?", Failed("busy", "Busy.", retryable=True), chat)
    started = await here.process.start("Three?", chat_id=chat)
    page = await get(here, "/chat/history", chatId=chat)
    assert (page["chatId"], page["title"], page["nextBefore"]) == (chat, "One?", None)
    assert page["activeSessionId"] == started.session_id
    prompt, reply, _, failed, _, pending = page["messages"]
    assert reply.pop("createdAt") >= prompt.pop("createdAt")
    assert reply.pop("completedAt") >= prompt.pop("completedAt")
    assert prompt == {
        "id": reply["replyTo"], "position": 1, "role": "user", "status": "complete",
        "parts": [{"type": "text", "text": "One?"}], "modelId": None, "replyTo": None,
        "supersededBy": None, "source": None, "finishReason": None, "errorCode": None, "usage": None,
    }  # fmt: skip
    assert reply == {
        "id": reply["id"], "position": 2, "role": "assistant", "status": "complete",
        "parts": [{"type": "text", "text": "About One?"}], "modelId": "small", "replyTo": prompt["id"],
        "supersededBy": None, "source": "provider", "finishReason": "stop", "errorCode": None,
        "usage": {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7},
    }  # fmt: skip
    assert (failed["status"], failed["errorCode"], failed["finishReason"]) == ("failed", "busy", None)
    assert (pending["status"], pending["parts"], pending["completedAt"]) == ("pending", [], None)


async def test_a_history_comes_in_pages(here: Site) -> None:
    chat = await turn(here.world, "0?")
    for number in range(1, 4):
        await turn(here.world, f"{number}?", chat_id=chat)
    last = await get(here, "/chat/history", chatId=chat, limit=3)
    assert [message["position"] for message in last["messages"]] == [6, 7, 8]
    before = await get(here, "/chat/history", chatId=chat, limit=3, before=last["nextBefore"])
    assert [message["position"] for message in before["messages"]] == [3, 4, 5]
    first = await get(here, "/chat/history", chatId=chat, limit=200, before=before["nextBefore"])
    assert [message["position"] for message in first["messages"]] == [1, 2]
    assert first["nextBefore"] is None


async def test_a_revision_asks_for_what_changed_since(here: Site) -> None:
    chat = await turn(here.world, "0?")
    known = await get(here, "/chat/history", chatId=chat)
    nothing = await get(here, "/chat/history", chatId=chat, since=known["revision"])
    assert nothing == known | {"messages": []}
    await turn(here.world, "1?", chat_id=chat)
    changed = await get(here, "/chat/history", chatId=chat, since=known["revision"], limit=2)
    assert [message["position"] for message in changed["messages"]] == [3, 4]
    assert (changed["reset"], changed["nextBefore"]) == (False, None)
    assert changed["revision"] > known["revision"]
    # What does not fit comes as the newest page, in place of all that was known.
    newest = await get(here, "/chat/history", chatId=chat, limit=3)
    reset = await get(here, "/chat/history", chatId=chat, since=0, limit=3)
    assert reset == newest | {"reset": True}
    assert reset["nextBefore"] is not None
    ahead = await get(here, "/chat/history", chatId=chat, since=changed["revision"] + 1)
    assert ahead == await get(here, "/chat/history", chatId=chat) | {"reset": True}


async def test_changes_that_exceed_a_response_come_as_the_newest_page(here: Site) -> None:
    chat: str | None = None
    for number in range(4):
        started = await here.process.start(f"{number}?", chat_id=chat)
        chat = started.chat_id
        await here.process.store.finish(started.session_id, Reply(1, '"' * 600_000, STOP), "provider")
    page = await get(here, "/chat/history", chatId=chat, since=0, limit=200)
    assert page == await get(here, "/chat/history", chatId=chat, limit=200) | {"reset": True}
    assert page["nextBefore"] is not None


@pytest.mark.parametrize(
    "query", [{"since": "x"}, {"since": -1}, {"since": 2**63}, {"since": ""}, {"since": 1, "before": 3}]
)
async def test_a_revision_that_is_none_is_refused(here: Site, query: dict[str, Any]) -> None:
    chat = await turn(here.world, "0?")
    response = await here.http.get("/chat/history", params={"userId": "ada", "chatId": chat} | query)
    assert (response.status_code, response.json()["error"]["field"]) == (400, "since")


async def test_long_messages_come_in_shorter_pages(here: Site) -> None:
    chat: str | None = None
    for number in range(4):
        started = await here.process.start(f"{number}?", chat_id=chat)
        chat = started.chat_id
        await here.process.store.finish(started.session_id, Reply(1, '"' * 600_000, STOP), "provider")
    query = {"userId": "ada", "chatId": chat, "limit": 200}
    found: list[int] = []
    pages = 0
    while True:
        response = await here.http.get("/chat/history", params=query)
        assert len(json.dumps(response.text)) < 6_000_000
        page = response.json()
        found = [message["position"] for message in page["messages"]] + found
        pages += 1
        if page["nextBefore"] is None:
            break
        query["before"] = page["nextBefore"]
    assert found == list(range(1, 9))
    assert pages == 2


async def test_an_old_title_is_shown_on_one_line_without_what_disorders_it(here: Site) -> None:
    chat = await turn(here.world, "One?")
    row = here.world.stage.database.chats[chat]
    for old, shown in [
        ("invoice\u202egpj.exe", "invoicegpj.exe"),
        ("a\x1b\nb", "a b"),
        ("\u200b", "Untitled"),
    ]:
        row.title = old
        page = await get(here, "/chat/history", chatId=chat)
        [listed] = (await get(here, "/chat/list"))["chats"]
        assert page["title"] == listed["title"] == shown


async def test_chats_come_in_pages(here: Site) -> None:
    chats = []
    for number in range(3):
        chats.append(await turn(here.world, f"{number}?"))
        await here.world.stage.pass_time(1)
    one = await get(here, "/chat/list", limit=2)
    assert [chat["chatId"] for chat in one["chats"]] == [chats[2], chats[1]]
    other = await get(here, "/chat/list", limit=2, before=one["nextBefore"])
    assert [(chat["chatId"], chat["title"], chat["modelId"]) for chat in other["chats"]] == [
        (chats[0], "0?", "small")
    ]
    assert other["nextBefore"] is None
    assert (await get(here, "/chat/list", userId="bob"))["chats"] == []


async def test_models_are_listed_with_their_plans(here: Site) -> None:
    await here.world.stage.add_user("eve", "free")
    models = (await get(here, "/chat/models", userId="eve"))["models"]
    small = {"id": "small", "title": "Small", "provider": "maker", "plans": ["Free", "Pro"]}
    large = {"id": "large", "title": "Large", "provider": "maker", "plans": ["Pro"]}
    assert models == [
        small | {"available": True, "unavailableBecause": None},
        large | {"available": False, "unavailableBecause": "model_not_in_plan"},
    ]


async def test_37_a_model_without_a_key_says_so(here: Site) -> None:
    here.process.model.has = lambda provider: False  # type: ignore[method-assign]
    models = (await get(here, "/chat/models", userId="ada"))["models"]
    assert [(model["available"], model["unavailableBecause"]) for model in models] == [
        (False, "model_not_configured"),
        (False, "model_not_configured"),
    ]


@pytest.mark.parametrize(
    ("path", "query", "status", "field"),
    [
        ("/chat/history", {}, 400, "chatId"),
        ("/chat/history", {"chatId": "c", "limit": "0"}, 400, "limit"),
        ("/chat/history", {"chatId": "c", "limit": "201"}, 400, "limit"),
        ("/chat/history", {"chatId": "c", "limit": "x"}, 400, "limit"),
        ("/chat/history", {"chatId": "c", "before": "-1"}, 400, "before"),
        ("/chat/history", {"chatId": "c", "before": str(2**63)}, 400, "before"),
        ("/chat/history", {"chatId": "unheard-of"}, 404, None),
        ("/chat/history", {"chatId": ""}, 404, None),
        ("/chat/history", {"chatId": "a\0b"}, 404, None),
        ("/chat/history", {"chatId": "c", "userId": ""}, 400, "userId"),
        ("/chat/history", {"chatId": "c", "userId": "a\0b"}, 400, "userId"),
        ("/chat/list", {"before": ""}, 400, "before"),
        ("/chat/list", {"before": "yesterday_x"}, 400, "before"),
        ("/chat/list", {"before": "2026-02-30T00:00:00+00:00_x"}, 400, "before"),
        ("/chat/list", {"before": "2026-02-03T00:00:00+99:00_x"}, 400, "before"),
        ("/chat/list", {"before": "0001-01-01T00:00:00+01:00_x"}, 400, "before"),
        ("/chat/list", {"before": "2026-02-03T00:00:00+01:00_"}, 400, "before"),
        ("/chat/list", {"before": "2026-02-03T00:00:00+01:00_a b"}, 400, "before"),
        ("/chat/list", {"userId": "nobody"}, 404, None),
        ("/chat/models", {"userId": "nobody"}, 404, None),
    ],
)
async def test_a_bad_query_is_refused_with_its_field(
    here: Site, path: str, query: dict[str, str], status: int, field: str | None
) -> None:
    response = await here.http.get(path, params={"userId": "ada"} | query)
    error = response.json()["error"]
    assert (response.status_code, error.get("field")) == (status, field)


async def test_another_s_chat_is_like_none(here: Site) -> None:
    chat = await turn(here.world, "Mine?")
    answers = [
        await here.http.get("/chat/history", params={"userId": "bob", "chatId": chat_id})
        for chat_id in (chat, "unheard-of")
    ]
    assert answers[0].status_code == answers[1].status_code == 404
    assert answers[0].content == answers[1].content


@pytest.mark.parametrize("path", ["/chat/history?chatId=c", "/chat/list", "/chat/models"])
async def test_every_read_needs_a_user(path: str) -> None:
    async with site(history.OPERATIONS) as trusting:
        assert (await trusting.http.get(path)).status_code == 400
        trusting.process.store_switch.turn_off()
        away = await trusting.http.get(path, params={"chatId": "c", "userId": "ada"})
        assert (away.status_code, away.headers["retry-after"]) == (503, "2")
    async with site(history.OPERATIONS, auth_mode="jwt") as strict:
        assert (await strict.http.get(path)).status_code == 401
        headers = {"authorization": "Bearer of-ada"}
        assert (await strict.http.get(path, headers=headers)).status_code in (200, 404)
        foreign = await strict.http.get(path, params={"chatId": "c", "userId": "bob"}, headers=headers)
        assert foreign.status_code == 403


async def test_health_tells_what_is_away(here: Site) -> None:
    well = await here.http.get("/health")
    assert (well.status_code, well.json()) == (200, {"status": "ok", "database": "ok", "valkey": "ok"})
    here.process.log_switch.turn_off()
    # The result of a check is the answer for some seconds.
    assert (await here.http.get("/health")).content == well.content
    here.clock.now += 60
    degraded = await here.http.get("/health")
    assert (degraded.status_code, degraded.json()["valkey"]) == (200, "unavailable")
    here.process.store_switch.turn_off()
    here.clock.now += 60
    ill = await here.http.get("/health")
    assert (ill.status_code, ill.json()["status"]) == (503, "unavailable")


def test_the_handler_takes_a_function_url_s_event() -> None:
    with lambda_world(history.handler) as world:
        answer = history.handler(event("GET", "/chat/models", query="userId=ada"), CONTEXT)
        assert answer["statusCode"] == 200
        assert [model["id"] for model in body_of(answer)["models"]] == ["small", "large"]
        listed = history.handler(event("GET", "/chat/list", query="userId=ada&limit=1"), CONTEXT)
        assert body_of(listed) == {"chats": [], "nextBefore": None}
        assert (
            history.handler(event("GET", "/chat/history", query="userId=ada"), CONTEXT)["statusCode"] == 400
        )
        assert world.stage.database.chats == {}
