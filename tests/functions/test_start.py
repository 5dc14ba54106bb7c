"""The start function: opening and stopping sessions over HTTP, and through its handler."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from parley.api.pages import page_body
from parley.domain.conversation import Reply
from parley.domain.events import Completed, FinishReason, Status
from parley.support.encoding import to_json
from tests.functions.in_process import CONTEXT, Site, body_of, event, lambda_world, site, start
from tests.in_memory import shown

BODY = {"prompt": "Why?", "modelId": "small", "userId": "ada"}
GONE = object()
STOP = Completed(FinishReason.STOP)


@pytest.fixture(params=[False, True], ids=["handler", "documented"])
async def here(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    async with site(
        start.OPERATIONS, documented=request.param, prompt_characters=20, body_bytes=1000
    ) as made:
        yield made


@pytest.fixture
async def behind_tokens() -> AsyncIterator[Site]:
    async with site(start.OPERATIONS, auth_mode="jwt") as made:
        yield made


def changed(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in (BODY | fields).items() if value is not GONE}


async def test_a_start_answers_with_all_the_ids(here: Site) -> None:
    response = await here.http.post("/chat/start", json=BODY)
    assert response.status_code == 201
    started = response.json()
    assert set(started) == {"sessionId", "chatId", "messageId", "replyId", "expiresAt"}
    page = await here.process.store.history("ada", started["chatId"], None, 9)
    assert [message.id for message in page.messages] == [started["messageId"], started["replyId"]]
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_start_in_a_chat_that_has_gone_on_is_told_what_is_new(here: Site) -> None:
    started = (await here.http.post("/chat/start", json=BODY)).json()
    store, chat = here.process.store, {"chatId": started["chatId"]}
    await store.finish(started["sessionId"], Reply(1, "Because.", STOP), "provider")
    known = {"parentId": started["replyId"]}
    second = (await here.http.post("/chat/start", json=changed(**chat, **known))).json()
    await store.finish(second["sessionId"], Reply(1, "x" * 3_000_000, STOP), "provider")
    page = page_body(await store.history("ada", started["chatId"], None, 9))
    for body in (
        changed(**chat, **known),
        changed(**chat, replaces=started["replyId"], prompt=GONE),
        changed(**chat, replaces=started["replyId"], prompt=""),
    ):
        response = await here.http.post("/chat/start", json=body)
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["retryable"]) == (409, "chat_moved", False)
        assert error["messages"] == json.loads(to_json(page.messages))
        assert (error["revision"], error["reset"]) == (page.revision, True)
    again = changed(**chat, replaces=second["replyId"], prompt=GONE)
    assert (await here.http.post("/chat/start", json=again)).status_code == 201


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (changed(prompt=GONE), 400, "invalid_request", "prompt"),
        (changed(prompt=None), 400, "invalid_request", "prompt"),
        (changed(prompt=5), 400, "invalid_request", "prompt"),
        (changed(prompt="  "), 400, "invalid_request", "prompt"),
        (changed(prompt="a\0"), 400, "invalid_request", "prompt"),
        (changed(prompt="x" * 21), 413, "too_large", "prompt"),
        (changed(prompt="x" * 1000), 413, "too_large", "body"),
        (changed(modelId=GONE), 400, "invalid_request", "modelId"),
        (changed(modelId=["small"]), 400, "invalid_request", "modelId"),
        (changed(modelId="unheard-of"), 400, "unknown_model", "modelId"),
        (changed(modelId="a\0b"), 400, "unknown_model", "modelId"),
        (changed(userId=GONE), 400, "invalid_request", "userId"),
        (changed(userId=""), 400, "invalid_request", "userId"),
        (changed(userId="two words"), 400, "invalid_request", "userId"),
        (changed(userId={"$ne": ""}), 400, "invalid_request", "userId"),
        (changed(userId="nobody"), 404, "not_found", None),
        (changed(chatId="unheard-of"), 404, "not_found", None),
        (changed(chatId="../etc"), 404, "not_found", None),
        (changed(chatId=5), 400, "invalid_request", "chatId"),
        (changed(regenerate="true"), 400, "invalid_request", "regenerate"),
        (changed(regenerate=1), 400, "invalid_request", "regenerate"),
        (changed(parentId="m"), 400, "invalid_request", "parentId"),
        (changed(parentId=5, chatId="c"), 400, "invalid_request", "parentId"),
        (changed(replaces=["m"], chatId="c"), 400, "invalid_request", "replaces"),
        (changed(replaces="m", chatId="c"), 400, "invalid_request", "prompt"),
        (changed(parentId="m", chatId="unheard-of"), 404, "not_found", None),
        ([BODY], 400, "invalid_request", "body"),
        ("text", 400, "invalid_request", "body"),
    ],
)
async def test_a_refusal_names_the_field_and_leaves_nothing(
    here: Site, body: Any, status: int, code: str, field: str | None
) -> None:
    response = await here.http.post("/chat/start", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error.get("field")) == (status, code, field)
    assert error["retryable"] is False
    assert set(error) <= {"code", "message", "retryable", "field"}
    assert here.rows() == 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b'{"prompt": "\xff"}',
        b"\xef\xbb\xbf{}",
        b'{"prompt":"\\ud800"}',
        b"[" * 900,
        b'{"a":' * 150,
    ],
)
async def test_what_is_no_json_is_refused(here: Site, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = await here.http.post("/chat/start", content=content, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "invalid_request"
    assert here.rows() == 0


@pytest.mark.parametrize(
    "kind", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"]
)
async def test_another_content_type_is_refused(here: Site, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    response = await here.http.post("/chat/start", content=json.dumps(BODY), headers=headers)
    assert response.status_code == 415
    assert response.json()["error"]["field"] == "Content-Type"


@pytest.mark.parametrize(
    "kind", ["application/json", "application/json; charset=utf-8", "Application/JSON ;x=y"]
)
async def test_json_by_any_spelling_is_taken(here: Site, kind: str) -> None:
    headers = {"content-type": kind}
    response = await here.http.post("/chat/start", content=json.dumps(BODY), headers=headers)
    assert response.status_code == 201


async def test_a_plan_a_busy_chat_and_a_disabled_user(here: Site) -> None:
    await here.world.stage.add_user("eve", "free")
    refused = await here.http.post("/chat/start", json=changed(userId="eve", modelId="large"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_in_plan")
    started = (await here.http.post("/chat/start", json=BODY)).json()
    busy = await here.http.post("/chat/start", json=changed(chatId=started["chatId"]))
    assert (busy.status_code, busy.json()["error"]["code"]) == (409, "chat_busy")
    assert busy.json()["error"]["activeSessionId"] == started["sessionId"]
    foreign = await here.http.post("/chat/start", json=changed(userId="bob", chatId=started["chatId"]))
    unknown = await here.http.post("/chat/start", json=changed(userId="bob", chatId="unheard-of"))
    assert (foreign.status_code, foreign.content) == (404, unknown.content)
    await here.world.stage.disable("eve")
    disabled = await here.http.post("/chat/start", json=changed(userId="eve"))
    assert (disabled.status_code, disabled.json()["error"]["code"]) == (403, "user_disabled")


async def test_an_idempotency_key_makes_one_session_of_two_starts(here: Site) -> None:
    async def post(key: str, **fields: Any) -> tuple[int, Any]:
        response = await here.http.post(
            "/chat/start", json=changed(**fields), headers={"idempotency-key": key}
        )
        return response.status_code, response.json()

    first = await post("k")
    assert await post("k") == first
    status, conflict = await post("k", prompt="Other?")
    assert (status, conflict["error"]["code"]) == (409, "idempotency_conflict")
    assert conflict["error"]["field"] == "Idempotency-Key"
    assert [(await post(key))[0] for key in ("x" * 200, "x" * 201)] == [201, 400]


async def test_a_store_that_is_away_is_worth_another_try(here: Site) -> None:
    here.process.store_switch.turn_off()
    response = await here.http.post("/chat/start", json=BODY)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "2"
    assert response.json()["error"]["retryable"] is True


async def test_a_bug_is_a_500_that_tells_nothing(here: Site) -> None:
    here.process.store_switch.turn_off(error=lambda: ValueError("a row with secrets"))
    response = await here.http.post("/chat/start", json=BODY)
    assert response.status_code == 500
    assert "secrets" not in response.text
    assert response.headers["x-content-type-options"] == "nosniff"
    here.process.store_switch.turn_on()


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/chat/start", 405), ("POST", "/chat/begin", 404)]
)
async def test_what_is_not_served_is_an_error(here: Site, method: str, path: str, status: int) -> None:
    response = await here.http.request(method, path)
    assert response.status_code == status
    assert response.json()["error"]["code"] in ("method_not_allowed", "not_found")
    assert (status != 405) or response.headers["allow"] == "POST"


# -- who ------------------------------------------------------------------------------------------


async def test_a_token_says_who_starts(behind_tokens: Site) -> None:
    async def post(body: dict[str, Any], token: str | None) -> int:
        headers = {} if token is None else {"authorization": token}
        return (await behind_tokens.http.post("/chat/start", json=body, headers=headers)).status_code

    mine = changed(userId=GONE)
    assert await post(mine, "Bearer of-ada") == 201
    assert await post(BODY, "bearer  of-ada") == 201
    assert await post(BODY, "Bearer of-bob") == 403
    for token in (None, "", "Bearer", "Bearer ", "Basic of-ada", "of-ada", "Bearer forged"):
        assert await post(mine, token) == 401
        assert await post(BODY, token) == 401
    users = {chat.owner_id for chat in behind_tokens.world.stage.database.chats.values()}
    assert users == {"ada"}


async def test_stop_needs_its_user_s_token(behind_tokens: Site) -> None:
    started = await behind_tokens.process.start()

    async def stop(token: str | None, session_id: str = started.session_id) -> tuple[int, bytes]:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        response = await behind_tokens.http.post(
            "/chat/stop", json={"sessionId": session_id}, headers=headers
        )
        return response.status_code, response.content

    assert (await stop(None))[0] == 401
    foreign = await stop("of-bob")
    assert foreign == await stop("of-bob", "unheard-of")
    assert foreign[0] == 404
    assert await stop("of-ada") == await stop("of-ada") == (202, b"{}")


# -- stop -----------------------------------------------------------------------------------------


async def test_a_stop_ends_the_call_and_saves_the_partial(here: Site) -> None:
    gate = asyncio.Event()
    process = here.process
    process.model.script = (*process.model.script[:1], gate, *process.model.script[1:])
    run = await process.ask()
    await shown(run, 5)
    for _ in range(2):
        response = await here.http.post("/chat/stop", json={"sessionId": run.session.id, "userId": "ada"})
        assert (response.status_code, response.json()) == (202, {})
    await process.runner.invocations.wait_until_idle(run, asyncio.get_running_loop().time() + 30)
    stored = await process.stored(run)
    assert (stored.text, stored.status) == ("Hello, ", Status.STOPPED)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"sessionId": None}, 400),
        ({"sessionId": "unheard-of"}, 404),
        ({"sessionId": ""}, 404),
        ({"sessionId": "a\0b"}, 404),
        ({"sessionId": "x" * 500}, 404),
        ({"sessionId": "unheard-of", "userId": "nobody"}, 404),
        ({"sessionId": "unheard-of", "userId": ""}, 400),
    ],
)
async def test_a_stop_of_nothing_is_refused(here: Site, body: dict[str, Any], status: int) -> None:
    assert (await here.http.post("/chat/stop", json=body)).status_code == status


# -- the handler ----------------------------------------------------------------------------------


@pytest.mark.parametrize("encoded", [False, True])
def test_the_handler_takes_a_function_url_s_event(encoded: bool) -> None:
    body = json.dumps(BODY | {"prompt": "é😀?"}, ensure_ascii=False).encode()
    with lambda_world(start.handler) as world:
        headers = {"content_type": "application/json", "idempotency_key": "k"}
        sent = event("POST", "/chat/start", body, encoded=encoded, **headers)
        answer = start.handler(sent, CONTEXT)
        assert answer["statusCode"] == 201
        assert answer["headers"]["content-type"] == "application/json"
        started = body_of(answer)
        assert world.stage.database.messages[started["messageId"]].text == "é😀?"
        assert body_of(start.handler(sent, CONTEXT)) == started
        stop = json.dumps({"sessionId": started["sessionId"], "userId": "ada"}).encode()
        stopped = start.handler(event("POST", "/chat/stop", stop, encoded=encoded, **headers), CONTEXT)
        assert (stopped["statusCode"], body_of(stopped)) == (202, {})


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (event("POST", "/chat/start", content_type="application/json"), 400),
        (event("POST", "/chat/start", b"", content_type="application/json"), 400),
        (event("POST", "/chat/start", b"\xff\xfe", encoded=True, content_type="application/json"), 400),
        (event("POST", "/chat/start", b"{}", content_type="text/plain"), 415),
        (event("POST", "/chat/start", b"x" * 300_000, content_type="application/json"), 413),
        (
            event("POST", "/chat/start", b"{}", content_type="application/json", content_length="9" * 5000),
            413,
        ),
        (event("GET", "/chat/start"), 405),
        (event("GET", "/"), 404),
        (event("GET", "/health"), 200),
    ],
)
def test_the_handler_answers_whatever_comes(sent: dict[str, Any], status: int) -> None:
    with lambda_world(start.handler):
        answer = start.handler(sent, CONTEXT)
    assert answer["statusCode"] == status
    assert (status == 200) or body_of(answer)["error"]["message"]
