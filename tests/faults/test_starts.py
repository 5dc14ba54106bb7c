"""Starting twice, at once, too late, or what is not one's own: rows 14 to 19 of the list of faults."""

import asyncio
import json
from typing import Any

import httpx
import psycopg
import pytest

from local.fake_provider import reply_to
from parley.domain.ids import SessionIds, new_id
from tests.client import Client, Refused, text_of
from tests.world import SESSION_IDS, World


@pytest.fixture
def clients(shared: World) -> list[Client]:
    """Clients of one user in two processes, by turns."""
    return [shared.client(shared.common_server(number % 2)) for number in range(8)]


def _count(world: World) -> tuple[int, ...]:
    """Return the counts of users, chats, messages, and of sessions that were ever opened.

    The server deletes a session some minutes after its end. Its reply stays.
    """
    [row] = world.sql(
        "select (select count(*) from users), (select count(*) from chats), (select count(*) from messages),"
        " (select count(*) from (select reply_id from sessions"
        " union select id from messages where role = 'assistant') opened)"
    )
    return tuple(row)


async def _refusal(work: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        await work
    return refused.value


async def test_14_the_same_start_again_is_the_same_session(shared: World, clients: list[Client]) -> None:
    model = shared.model("same-1")
    here, there = clients[:2]
    first = await here.start("Did you hear me?", model, key="same-1")
    before = _count(shared)
    assert await there.start("Did you hear me?", model, key="same-1") == first
    assert _count(shared) == before
    reading = await there.read(first["sessionId"])
    # And once more when it is over: a retry that was lost for long.
    assert await here.start("Did you hear me?", model, key="same-1") == first
    assert _count(shared) == before
    again = await here.read(first["sessionId"])
    assert again.source == "history"
    assert again.text == reading.text == reply_to("Did you hear me?")
    assert shared.fake.calls(model) == 1


@pytest.mark.parametrize("where", ["new chat", "old chat", "regenerate"])
async def test_14_the_same_start_at_the_same_instant(
    shared: World, clients: list[Client], where: str
) -> None:
    model = shared.model("instant")
    fields: dict[str, Any] = {}
    messages = 2
    if where != "new chat":
        asked, _ = await clients[0].ask(f"Before all, {where}?", model)
        fields = {"chatId": asked["chatId"], "regenerate": where == "regenerate"}
        messages = 1 if where == "regenerate" else 2
    prompt = None if where == "regenerate" else f"Twice, {where}?"
    for number in range(5):
        before = _count(shared)
        starts = [client.start(prompt, model, key=f"{where} {number}", **fields) for client in clients]
        first, *others = await asyncio.gather(*starts)
        assert all(other == first for other in others)
        chats = int(where == "new chat")
        assert _count(shared) == tuple(
            old + new for old, new in zip(before, (0, chats, messages, 1), strict=True)
        )
        await clients[0].read(first["sessionId"])


async def test_14_a_double_click_without_a_key_finds_the_chat_busy(
    shared: World, clients: list[Client]
) -> None:
    model = shared.model("click", delay=0.01)
    first, _ = await clients[0].ask("Open the chat.", model)
    before = _count(shared)
    results = await asyncio.gather(
        *(client.start("Click!", model, chatId=first["chatId"]) for client in clients), return_exceptions=True
    )
    [winner] = [result for result in results if isinstance(result, dict)]
    for refused in results:
        if refused is not winner:
            assert isinstance(refused, Refused)
            assert (refused.status, refused.error["code"]) == (409, "chat_busy")
            assert refused.error["activeSessionId"] == winner["sessionId"]
    assert _count(shared) == (before[0], before[1], before[2] + 2, before[3] + 1)
    await clients[0].read(winner["sessionId"])


async def test_14_one_key_of_two_users_is_two_keys(shared: World) -> None:
    model = shared.model("key-2")
    server = shared.common_server()
    one = await shared.client(server, "demo-pro").start("Whose key?", model, key="shared-key")
    two = await shared.client(server, "demo-free").start("Whose key, then?", model, key="shared-key")
    assert one["sessionId"] != two["sessionId"]
    assert one["chatId"] != two["chatId"]


async def test_14_a_refused_start_does_not_use_its_key_up(shared: World, clients: list[Client]) -> None:
    model = shared.model("key-3")
    refused = await _refusal(clients[0].start("Hello?", "no-such-model", key="key-3"))
    assert refused.status == 400
    await clients[0].start("Hello?", model, key="key-3")


async def test_15_the_same_key_with_another_body(shared: World, clients: list[Client]) -> None:
    model, other = shared.model("conflict-1"), shared.model("conflict-2")
    first, _ = await clients[0].ask("One thing.", model, key="conflict")
    before = _count(shared)
    for changed in (
        {"prompt": "Another thing."},
        {"prompt": "One thing.", "model": other},
        {"prompt": "One thing.", "chatId": first["chatId"]},
        {"prompt": "One thing.", "regenerate": True},
    ):
        ask: dict[str, Any] = {"model": model, "key": "conflict"} | changed
        for client in clients[:2]:
            refused = await _refusal(client.start(**ask))
            assert refused.status == 409
            assert refused.error["code"] == "idempotency_conflict"
            assert refused.error["retryable"] is False
            assert refused.error["field"] == "Idempotency-Key"
    assert _count(shared) == before


async def test_15_two_bodies_for_one_key_at_the_same_instant(shared: World, clients: list[Client]) -> None:
    model = shared.model("conflict-3")
    for number in range(5):
        before = _count(shared)
        starts = [
            client.start(f"Body {body % 4} of {number}", model, key=f"instant conflict {number}")
            for body, client in enumerate(clients)
        ]
        results = await asyncio.gather(*starts, return_exceptions=True)
        started = {result["sessionId"] for result in results if isinstance(result, dict)}
        refused = {(result.status, result.error["code"]) for result in results if isinstance(result, Refused)}
        assert len(started) == 1
        assert refused == {(409, "idempotency_conflict")}
        assert _count(shared) == (before[0], before[1] + 1, before[2] + 2, before[3] + 1)


async def test_16_two_sends_at_once_on_one_chat(shared: World, clients: list[Client]) -> None:
    model = shared.model("busy-1", delay=0.01)
    first, _ = await clients[0].ask("Open this chat.", model)
    chat = first["chatId"]
    said = ["Open this chat."]
    for number in range(5):
        prompts = [f"{name} of {number}" for name in ("left", "right")]
        results = await asyncio.gather(
            *(
                client.start(prompt, model, chatId=chat)
                for client, prompt in zip(clients, prompts, strict=False)
            ),
            return_exceptions=True,
        )
        [(winner, prompt)] = [
            (result, prompt)
            for result, prompt in zip(results, prompts, strict=True)
            if isinstance(result, dict)
        ]
        [refused] = [result for result in results if isinstance(result, Refused)]
        assert (refused.status, refused.error["code"]) == (409, "chat_busy")
        assert refused.error["activeSessionId"] == winner["sessionId"]
        assert (await clients[1].history(chat))["activeSessionId"] == winner["sessionId"]
        # The one that came second attaches, sees it end, and sends again.
        reading = await clients[1].read(refused.error["activeSessionId"])
        assert reading.text == reply_to(prompt)
        [other] = [one for one in prompts if one != prompt]
        _, reading = await clients[1].ask(other, model, chatId=chat)
        assert reading.text == reply_to(other)
        said += [prompt, other]
    pages = [await client.history(chat, limit=200) for client in clients[:2]]
    assert pages[0] == pages[1]
    messages = pages[0]["messages"]
    assert [text_of(message) for message in messages if message["role"] == "user"] == said
    assert [message["position"] for message in messages] == list(range(1, len(messages) + 1))
    for asked, replied in zip(messages[::2], messages[1::2], strict=True):
        assert replied["replyTo"] == asked["id"]
        assert text_of(replied) == reply_to(text_of(asked))


async def test_98_a_tab_that_does_not_know_what_another_asked_changes_nothing(
    shared: World, clients: list[Client]
) -> None:
    model = shared.model("moved")
    here, there = clients[:2]
    one, _ = await here.ask("ONE?", model)
    chat = one["chatId"]
    two, _ = await there.ask("TWO?", model, chatId=chat, parentId=one["replyId"])
    before, seen = _count(shared), await here.history(chat)
    for prompt, known in (
        ("THREE?", {"parentId": one["replyId"]}),
        ("THREE?", {"parentId": one["messageId"]}),
        (None, {"replaces": one["replyId"]}),
    ):
        refused = await _refusal(here.start(prompt, model, chatId=chat, **known))
        assert (refused.status, refused.error["code"]) == (409, "chat_moved")
        assert [message["id"] for message in refused.error["messages"]][-2:] == [
            two["messageId"],
            two["replyId"],
        ]
        assert (refused.error["revision"], refused.error["reset"]) == (seen["revision"], True)
        since = await here.history(chat, since=refused.error["revision"])
        assert since["messages"] == []
    assert (_count(shared), await here.history(chat)) == (before, seen)
    # The tab loads what is new, and asks again: TWO's reply is replaced by a reply to TWO.
    again, reading = await here.ask(None, model, chatId=chat, replaces=two["replyId"])
    assert (again["messageId"], reading.text) == (two["messageId"], reply_to("TWO?"))
    _, reading = await here.ask("THREE?", model, chatId=chat, parentId=again["replyId"])
    assert reading.text == reply_to("THREE?")
    shown = [text_of(m) for m in (await there.history(chat))["messages"] if m["supersededBy"] is None]
    assert shown == ["ONE?", reply_to("ONE?"), "TWO?", reply_to("TWO?"), "THREE?", reply_to("THREE?")]


async def test_98_what_a_refused_start_is_told_is_all_that_its_revision_stands_for(
    shared: World, clients: list[Client]
) -> None:
    model = shared.model("told")
    here, there = clients[:2]
    one, _ = await here.ask("ONE?", model)
    chat = one["chatId"]
    two, _ = await here.ask("TWO?", model, chatId=chat)
    # A blank reply stands beside the good one; that is what this client shows.
    blank = await here.start(None, model, chatId=chat, replaces=two["replyId"])
    await here.stop(blank["sessionId"])
    shown = await here.history(chat)
    better, _ = await there.ask(None, model, chatId=chat, replaces=blank["replyId"])
    refused = await _refusal(here.start("THREE?", model, chatId=chat, parentId=blank["replyId"]))
    error = refused.error
    assert error["reset"] is False
    known = {message["id"]: message for message in shown["messages"]}
    known |= {message["id"]: message for message in error["messages"]}
    page = await here.history(chat)
    assert error["revision"] == page["revision"]
    assert sorted(known.values(), key=lambda message: int(message["position"])) == page["messages"]
    assert known[two["replyId"]]["supersededBy"] == better["replyId"]


async def test_98_both_tabs_ask_at_once_from_the_same_end(shared: World, clients: list[Client]) -> None:
    model = shared.model("moved-at-once")
    one, _ = await clients[0].ask("ONE?", model)
    chat, known = one["chatId"], one["replyId"]
    said = ["ONE?"]
    for number in range(5):
        results = await asyncio.gather(
            *(
                client.ask(f"{number}{name}?", model, chatId=chat, parentId=known)
                for client, name in zip(clients[:3], "abc", strict=True)
            ),
            return_exceptions=True,
        )
        [started] = [result[0] for result in results if isinstance(result, tuple)]
        refused = [result for result in results if isinstance(result, Refused)]
        assert len(refused) == 2
        assert {one.error["code"] for one in refused} <= {"chat_busy", "chat_moved"}
        known = started["replyId"]
        messages = (await clients[0].history(chat))["messages"]
        assert [message["id"] for message in messages][-2:] == [started["messageId"], known]
        said.append(text_of(messages[-2]))
    assert [text_of(message) for message in messages if message["role"] == "user"] == said


async def test_16_a_send_while_the_chat_is_being_answered(shared: World, clients: list[Client]) -> None:
    model = shared.model("busy-2", count=5000, delay=0.02)
    here, there = clients[:2]
    started = await here.start("A long story.", model)
    await here.read(started["sessionId"], upto=5)
    before = _count(shared)
    for again in (False, True):
        refused = await _refusal(
            there.start("And another.", model, chatId=started["chatId"], regenerate=again)
        )
        assert (refused.status, refused.error["code"]) == (409, "chat_busy")
        assert refused.error["activeSessionId"] == started["sessionId"]
    assert _count(shared) == before
    await there.stop(started["sessionId"])
    await there.read(started["sessionId"])
    after = await there.start("And another.", shared.model("busy-3"), chatId=started["chatId"])
    assert (await here.read(after["sessionId"])).text == reply_to("And another.")


async def test_17_an_expired_session(shared: World, clients: list[Client]) -> None:
    model = shared.model("expired")
    here = clients[0]
    started, ended = await here.start("Too late?", model), (await here.ask("In time?", model))[0]
    streaming = await here.start("Still going?", shared.model("expired-2", count=5000, delay=0.02))
    await here.read(streaming["sessionId"], upto=5)
    for one in (started, ended, streaming):
        shared.sql(
            "update sessions set expires_at = clock_timestamp() - interval '1 second' where id = %s",
            one["sessionId"],
        )
    for client in clients[:2]:
        for one in (started, ended):
            response = await client.http.get("/chat/stream", params={"sessionId": one["sessionId"]})
            assert response.status_code == 410
            assert response.headers["content-type"] == "application/json"
            assert response.json()["error"]["code"] == "session_expired"
            assert response.json()["error"]["retryable"] is False
    assert (await here.history(started["chatId"]))["activeSessionId"] is None
    await shared.purge()
    # The first run ends what nobody read, and gives it no further time; one that streams is let be.
    await shared.purge()
    left = shared.sql(
        "select id from sessions where id = any(%s)",
        [one["sessionId"] for one in (started, ended, streaming)],
    )
    assert left == [(streaming["sessionId"],)]
    for one in (started, ended):
        assert (await _refusal(here.read(one["sessionId"]))).status == 404
    reply = await here.reply(started)
    assert (reply["status"], reply["errorCode"]) == ("failed", "session_expired")
    assert text_of(await here.reply(ended)) == reply_to("In time?")
    assert (await here.read(streaming["sessionId"], upto=5)).events
    await here.stop(streaming["sessionId"])
    assert shared.fake.calls(model) == 1
    # What nobody came for does not block its chat.
    _, reading = await here.ask("Once more, then.", model, chatId=started["chatId"])
    assert reading.text == reply_to("Once more, then.")


async def test_17_an_expired_session_does_not_block_its_chat(shared: World, clients: list[Client]) -> None:
    model = shared.model("expired-3")
    started = await clients[0].start("Forgotten?", model)
    shared.sql(
        "update sessions set expires_at = now() - interval '1 second' where id = %s", started["sessionId"]
    )
    _, reading = await clients[1].ask("Not quite.", model, chatId=started["chatId"])
    assert reading.text == reply_to("Not quite.")
    assert (await clients[0].reply(started))["errorCode"] == "session_expired"
    await clients[0].stop(started["sessionId"])


def _told(response: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    """Everything of an answer that could tell one case from another."""
    headers = {name: value for name, value in response.headers.items() if name != "date"}
    return response.status_code, headers, response.content


@pytest.mark.parametrize("streaming", [False, True], ids=["ended", "streaming"])
async def test_18_what_belongs_to_another_is_like_what_never_was(shared: World, streaming: bool) -> None:
    model = shared.model(f"foreign-{streaming}", count=5000 if streaming else 5, delay=0.02)
    server = shared.common_server()
    owner, thief = shared.client(server), shared.client(server, "demo-free")
    started = await owner.start("My secret.", model)
    await owner.read(started["sessionId"], upto=5 if streaming else None)
    reply = await owner.reply(started)
    before = _count(shared)

    def post(path: str, **body: Any) -> Any:
        return thief.http.post(path, json={"userId": "demo-free"} | body)

    def get(path: str, **params: Any) -> Any:
        return thief.http.get(path, params={"userId": "demo-free"} | params)

    def tries(chat: str, session: str) -> list[Any]:
        ask = {"prompt": "What is it?", "modelId": model, "chatId": chat}
        return [
            post("/chat/start", **ask),
            post("/chat/start", **ask, regenerate=True),
            post("/chat/start", **(ask | {"prompt": None}), regenerate=True),
            post("/chat/stop", sessionId=session),
            get("/chat/history", chatId=chat),
            get("/chat/history", chatId=chat, before=2, limit=1),
        ]

    foreign = [_told(await work) for work in tries(started["chatId"], started["sessionId"])]
    unknown = [_told(await work) for work in tries(new_id(), SESSION_IDS.new())]
    impossible = [_told(await work) for work in tries("no/such id\0é" * 30, "né\0" * 40)]
    assert foreign == unknown == impossible
    for status, _, body in foreign:
        assert status == 404
        assert json.loads(body)["error"]["code"] == "not_found"
    # The session's id is the ticket of its stream; any other is none, whatever it looks like.
    guesses = [
        SESSION_IDS.new(),
        SessionIds("a secret of somebody else").new(),
        "x" * 32,
        started["sessionId"][:-1],
        started["sessionId"].swapcase(),
        "x" * 500,
        "\0",
        "",
    ]
    told = {json.dumps(_told_text(await get("/chat/stream", sessionId=guess))) for guess in guesses}
    assert len(told) == 1
    assert json.loads(told.pop())[0] == 404
    chats = await thief.get("/chat/list", limit=200)
    assert started["chatId"] not in {chat["chatId"] for chat in chats["chats"]}
    # And nothing of all that did anything.
    assert _count(shared) == before
    if streaming:
        assert (await owner.reply(started))["status"] == "pending"
        await owner.stop(started["sessionId"])
    else:
        assert await owner.reply(started) == reply


def _told_text(response: httpx.Response) -> list[Any]:
    status, headers, body = _told(response)
    return [status, headers, body.decode()]


async def test_18_a_user_who_does_not_exist(shared: World) -> None:
    nobody = shared.client(shared.common_server(), "nobody-at-all")
    before = _count(shared)
    for work in (
        nobody.start("Am I here?", "fake"),
        nobody.history(new_id()),
        nobody.get("/chat/list"),
        nobody.get("/chat/models"),
        nobody.stop(SESSION_IDS.new()),
    ):
        assert (await _refusal(work)).status == 404
    assert _count(shared) == before


async def test_19_a_model_unknown_switched_off_or_not_in_the_plan(shared: World) -> None:
    off, pro = shared.model("switched-off"), shared.model("pro-only")
    with psycopg.connect(shared.database_url, autocommit=True) as connection:
        connection.execute("update models set enabled = false where id = %s", [off])
        connection.execute("delete from plan_models where model_id = %s and plan_id = 'free'", [pro])
    client = shared.client(shared.common_server(), "demo-free")
    mine, _ = await client.ask("My chat.", shared.model("plain"))
    before = _count(shared)
    chats: list[dict[str, Any]] = [{}, {"chatId": mine["chatId"]}]
    for chat in chats:
        for model, status, code in (
            ("no-such-model", 400, "unknown_model"),
            ("", 400, "unknown_model"),
            ("né ' or 1=1 --", 400, "unknown_model"),
            ("m" * 10_000, 400, "unknown_model"),
            (off, 400, "unknown_model"),
            (pro, 403, "model_not_in_plan"),
        ):
            key = "nineteen" if chat else None
            refused = await _refusal(client.start("May I?", model, key=key, **chat))
            assert (refused.status, refused.error["code"]) == (status, code)
            assert refused.error["field"] == "modelId"
    assert _count(shared) == before
    listed = {model["id"]: model["available"] for model in (await client.get("/chat/models"))["models"]}
    assert listed[pro] is False
    assert off not in listed
    await shared.client(shared.common_server()).ask("I may.", pro)
