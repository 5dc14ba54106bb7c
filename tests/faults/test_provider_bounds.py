"""How long a provider is waited for, how often it is asked, and how much it is sent: rows 30 and 33."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from typing import Any

import pytest

from local.fake_provider import reply_to
from tests.client import Client, Transcript, eventually
from tests.faults.test_provider_replies import (
    BEATS,
    DONE,
    SECRET,
    STOP,
    begin,
    chunk,
    delta,
    end,
    reasoning,
    sent,
    text,
)
from tests.faults.test_providers import WIRES, _ends, _fails, client, wires
from tests.world import World

__all__ = ["client"]

_ROLE = chunk({"role": "assistant", "content": ""})
_GAP = 0.5
# A gap is not looked at more often than four times in it.
_LONGER_THAN_A_GAP = 1.5 * _GAP
_LATE = 2 * _LONGER_THAN_A_GAP
_PATIENT = BEATS | {"PROVIDER_GAP_SECONDS": str(_GAP), "PROVIDER_FIRST_TOKEN_SECONDS": "60"}


def _options(world: World, model: str, **options: object) -> str:
    """Give a model's row options of its own."""
    world.sql("update models set options = %s::jsonb where id = %s", json.dumps(options), model)
    return model


def _requests(world: World, model: str) -> list[dict[str, Any]]:
    """Return the bodies of the requests to a model, in order."""
    bodies = [request["body"] for request in world.fake.requests()]
    return [body for body in bodies if body["model"] == model]


# -- the first token --------------------------------------------------------------------------------

_SLOW: dict[str, tuple[str, dict[str, Any]]] = {
    "after-its-role": ("openai", {"frames": [_ROLE, text("Here ") + text("it is.") + STOP + DONE]}),
    "after-reasoning": ("openai", {"frames": [reasoning("Hm."), text("Here it is.") + STOP + DONE]}),
    "after-a-sign-of-life": ("openai", {"frames": [": hm\n\n", text("Here it is.") + STOP + DONE]}),
    "after-its-beginning": ("anthropic", {"frames": [begin(), delta("Here ") + delta("it is.") + end()]}),
    "with-its-response-openai": (
        "openai", {"frames": [text("Here it is.") + STOP + DONE], "first_delay": _LATE}
    ),
    "with-its-response-anthropic": (
        "anthropic", {"frames": [begin() + delta("Here it is.") + end()], "first_delay": _LATE}
    ),
}  # fmt: skip


async def test_33_a_model_that_is_slow_to_begin_is_asked_once_and_shown_as_thinking(shared: World) -> None:
    """All at once, since they take their time: every one on its own stream."""
    client = shared.client(shared.server(**_PATIENT))

    async def begins_slowly(name: str) -> None:
        wire, script = _SLOW[name]
        model = shared.model(f"slow-{name}", wire, delay=_LONGER_THAN_A_GAP, **script)
        reading, _ = await _ends(client, model, "Where is it?", status="complete", text="Here it is.")
        assert shared.fake.calls(model) == 1, name
        states = [event for event in reading.events if event["type"] == "status"]
        assert {event["state"] for event in states} == {"thinking"}, name
        elapsed = [event["elapsedMs"] for event in states]
        assert len(elapsed) >= 2, name
        assert elapsed == sorted(set(elapsed)), name
        first = reading.types().index("token")
        assert "status" not in reading.types()[first:], name

    await asyncio.gather(*map(begins_slowly, _SLOW))


async def test_33_who_comes_late_sees_since_when_a_model_thinks(shared: World) -> None:
    clients = [shared.client(shared.common_server(number, **BEATS)) for number in range(2)]
    model = shared.model("thinks-since", frames=[_ROLE], fault="stall")
    started = await clients[0].start("Since when?", model)

    def elapsed(reading: Transcript) -> list[int]:
        return [event["elapsedMs"] for event in reading.events if event.get("state") == "thinking"]

    readings: list[Transcript] = []
    reads: list[asyncio.Task[Transcript]] = []
    # In this process, in another one, and here again after a reload.
    for one in (*clients, clients[0]):
        reading = Transcript()
        reads.append(asyncio.create_task(one.read(started["sessionId"], reading)))
        await eventually(partial(lambda shown: len(elapsed(shown)) >= 2, reading))
        readings.append(reading)
    assert elapsed(readings[0])[0] < elapsed(readings[1])[0] < elapsed(readings[2])[0]
    await clients[0].stop(started["sessionId"])
    await asyncio.wait_for(asyncio.gather(*reads), 20)


_MUTE: dict[str, dict[str, Any]] = {
    "at-once": {"fault": "silence"},
    "after-its-role": {"frames": [_ROLE], "fault": "stall"},
    "after-reasoning": {"frames": [reasoning("Hm.")], "fault": "stall"},
}


async def test_33_a_model_that_never_begins_is_asked_once_and_is_a_timeout(shared: World) -> None:
    # The settings are for one server, the model's row for the other.
    by_row = shared.client(shared.server(**_PATIENT))
    by_setting = shared.client(shared.server(PROVIDER_FIRST_TOKEN_SECONDS="1", PROVIDER_GAP_SECONDS="60"))
    for wire in WIRES:
        # The first call loads the SDK, which may take longer than the others are waited for.
        model = _options(shared, shared.model(f"load-{wire}", wire), first_token_seconds=60)
        for one in (by_row, by_setting):
            await one.ask("Load.", model)

    async def stays_mute(client: Client, name: str, wire: str, **options: object) -> None:
        script = _MUTE[name]
        if wire == "anthropic" and "frames" in script:
            script = script | {"frames": [begin(input_tokens=2)]}
        model = shared.model(f"mute-{name}-{wire}-{len(options)}", wire, **script)
        reading, _ = await _ends(client, _options(shared, model, **options), "Hm?", status="failed", text="")
        assert reading.end is not None
        assert (reading.end["code"], reading.end["retryable"]) == ("provider_timeout", True), name
        assert "retrying" not in [event.get("state") for event in reading.events], name
        assert shared.fake.calls(model) == 1, name

    waits = [stays_mute(by_row, name, wire, first_token_seconds=1) for name in _MUTE for wire in WIRES]
    waits += [stays_mute(by_setting, name, "openai") for name in _MUTE]
    async with asyncio.timeout(60):
        await asyncio.gather(*waits)
    shared.fake.until(lambda stats: stats["active"] == 0)


_LOADING = {
    "llama-cpp": {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}},
    "hugging-face": {"error": "Model gemma is currently loading", "estimated_time": 20.0},
    "localai": {"error": {"code": "model_loading", "message": SECRET, "type": "server_error"}},
}


async def test_30_a_server_that_loads_its_model_is_waited_for_beyond_the_tries(
    shared: World, client: Client
) -> None:
    async def loads(name: str) -> None:
        body = json.dumps(_LOADING[name])
        model = shared.model(f"loads-{name}", status=503, status_times=5, error_body=body)
        reply = reply_to("Are you awake?")
        reading, _ = await _ends(client, model, "Are you awake?", status="complete", text=reply)
        assert shared.fake.calls(model) == 6, name
        assert "retrying" in [event.get("state") for event in reading.events], name

    await asyncio.gather(*map(loads, _LOADING))


async def test_30_a_server_that_loads_for_longer_than_a_first_token_may_take_is_an_error(
    shared: World, client: Client
) -> None:
    body = json.dumps(_LOADING["llama-cpp"])
    model = shared.model("loads-for-ever", status=503, error_body=body)
    failed = await _fails(client, _options(shared, model, first_token_seconds=1.5), "Are you awake?")
    assert (failed["code"], failed["retryable"]) == ("provider_loading", True)
    assert failed["retryAfterMs"] > 0
    assert shared.fake.calls(model) > 1
    # Where it will take longer, it is asked once more, shortly before it is given up.
    shared.fake.script(model, status=503, error_body=body, retry_after="30")
    failed = await _fails(client, model, "Are you awake now?")
    assert (failed["code"], failed["retryAfterMs"]) == ("provider_loading", 30_000)
    assert shared.fake.calls(model) <= 2


# -- tries, and when to try again -------------------------------------------------------------------


@wires
@pytest.mark.parametrize(
    ("settings", "options", "calls"),
    [
        ({}, {}, 3),
        ({}, {"attempts": 1}, 1),
        ({"PROVIDER_ATTEMPTS": "1"}, {}, 1),
        ({"PROVIDER_ATTEMPTS": "1"}, {"attempts": 4}, 4),
        ({}, {"attempts": "many", "first_token_seconds": None}, 3),
    ],
    ids=["defaults", "row", "setting", "row-over-setting", "row-of-nonsense"],
)
async def test_30_a_busy_model_is_asked_as_often_as_its_row_or_the_settings_say(
    shared: World,
    wire: str,
    settings: dict[str, str],
    options: dict[str, object],
    calls: int,
    request: pytest.FixtureRequest,
) -> None:
    client = shared.client(shared.common_server(0, **settings))
    model = shared.model(f"tries-{request.node.callspec.id}", wire, status=429, retry_after_ms="20")
    failed = await _fails(client, _options(shared, model, **options), "How often?")
    assert (failed["code"], failed["retryAfterMs"]) == ("provider_rate_limited", 20)
    assert shared.fake.calls(model) == calls


@wires
@pytest.mark.parametrize(
    ("script", "code"),
    [
        ({"status": 429}, "provider_rate_limited"),
        ({"status": 503}, "provider_overloaded"),
        ({"status": 529}, "provider_overloaded"),
        ({"status": 500}, "provider_unavailable"),
        ({"body": json.dumps({"error": {"code": 429, "message": SECRET}})}, "provider_rate_limited"),
    ],
    ids=["429", "503", "529", "500", "with-the-status-of-a-success"],
)
async def test_30_a_retry_after_is_believed_and_shown(
    shared: World,
    client: Client,
    wire: str,
    script: dict[str, Any],
    code: str,
    request: pytest.FixtureRequest,
) -> None:
    model = shared.model(f"after-{request.node.callspec.id}", wire, retry_after="120", **script)
    failed = await _fails(client, model, "When, then?")
    assert (failed["code"], failed["retryAfterMs"]) == (code, 120_000)
    # Before that it would be in vain.
    assert shared.fake.calls(model) == 1


async def test_30_a_retry_after_that_is_a_date_is_believed(shared: World, client: Client) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    model = shared.model("after-date", status=429, retry_after=date)
    failed = await _fails(client, model, "When, then?")
    assert 0 < failed["retryAfterMs"] <= 3_600_000
    assert shared.fake.calls(model) == 1


# -- fields that a server does not take -------------------------------------------------------------

_NAMES = ("stream_options", "max_tokens", "max_completion_tokens")


def _named(body: dict[str, Any]) -> set[str]:
    return {name for name in _NAMES if name in body}


@pytest.mark.parametrize("first", [True, False], ids=["in-a-server-s-first-call", "in-a-later-call"])
@pytest.mark.parametrize(
    ("refused", "asked"),
    [
        (["stream_options"], [{"stream_options", "max_tokens"}, {"max_tokens"}]),
        (["max_tokens"], [{"stream_options", "max_tokens"}, {"stream_options", "max_completion_tokens"}]),
        (
            ["max_tokens", "stream_options"],
            [
                {"stream_options", "max_tokens"}, {"stream_options", "max_completion_tokens"},
                {"max_completion_tokens"},
            ],
        ),
    ],
    ids=["usage", "limit", "both"],
)  # fmt: skip
async def test_30_a_question_is_asked_again_without_a_field_that_is_refused_and_that_is_remembered(
    shared: World, first: bool, refused: list[str], asked: list[set[str]], request: pytest.FixtureRequest
) -> None:
    client = shared.client(shared.server() if first else shared.common_server())
    model = shared.model(f"fields-{request.node.callspec.id}", unknown_fields=refused)
    if not first:
        await client.ask("Load.", shared.model("fields-load"))
    reply = reply_to("Do you take it?")
    reading, _ = await _ends(client, model, "Do you take it?", status="complete", text=reply)
    # No failure, so no try is spent, and nobody is told.
    assert "status" not in reading.types()
    bodies = _requests(shared, model)
    assert sorted(map(sorted, map(_named, bodies))) == sorted(map(sorted, asked))
    assert not _named(bodies[-1]) & set(refused)
    await _ends(client, model, "Still?", status="complete", text=reply_to("Still?"))
    later = _requests(shared, model)[len(bodies) :]
    assert list(map(_named, later)) == [_named(bodies[-1])]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"error": {"message": "Unrecognized request argument supplied: stream_options"}}),
        (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"],
                           "msg": "Extra inputs are not permitted"}]}),
        (400, [{"error": {"code": 400, "message": 'Unknown name "streamOptions": Cannot find field.'}}]),
        (400, {"object": "error", "message": "Unsupported parameter: stream_options", "code": 400}),
        (400, {"error": {"code": "unsupported_parameter", "message": "Unsupported parameter: 'max_tokens' is"
                         " not supported with this model. Use 'max_completion_tokens' instead."}}),
    ],
    ids=["openai", "pydantic", "gemini", "vllm", "openai-limit"],
)  # fmt: skip
async def test_30_a_refusal_of_a_field_is_understood_in_any_server_s_words(
    shared: World, client: Client, status: int, body: object, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.id
    model = shared.model(f"words-{name}", status=status, status_times=1, error_body=json.dumps(body))
    await _ends(client, model, "In words?", status="complete", text=reply_to("In words?"))
    before, after = map(_named, _requests(shared, model))
    dropped = "max_tokens" if name == "openai-limit" else "stream_options"
    assert dropped in before
    assert dropped not in after


@pytest.mark.parametrize(
    "said",
    [
        "max_tokens is too large: 1000. This model takes at most 500 completion tokens.",
        "Unsupported parameter: 'stream' is not supported with this model.",
        "stream_options must be an object.",
    ],
    ids=["value", "other-field", "type"],
)
async def test_30_a_refusal_of_something_else_is_not_asked_again(
    shared: World, client: Client, said: str, request: pytest.FixtureRequest
) -> None:
    body = json.dumps({"error": {"message": said, "type": "invalid_request_error"}})
    model = shared.model(f"else-{request.node.callspec.id}", status=400, error_body=body)
    assert (await _fails(client, model, "What else?"))["code"] == "provider_bad_request"
    assert shared.fake.calls(model) == 1


@pytest.mark.parametrize(
    ("options", "parameters", "fields"),
    [
        ({}, {}, {"stream_options", "max_tokens"}),
        ({"stream_usage": False}, {}, {"max_tokens"}),
        ({"output_limit": "max_completion_tokens"}, {}, {"stream_options", "max_completion_tokens"}),
        ({"output_limit": "max_completion_tokens", "stream_usage": False}, {}, {"max_completion_tokens"}),
        ({}, {"max_completion_tokens": 77}, {"stream_options", "max_completion_tokens"}),
    ],
    ids=["defaults", "usage", "limit", "both", "parameter"],
)
async def test_30_a_model_s_row_says_which_fields_its_server_takes(
    shared: World,
    client: Client,
    options: dict[str, object],
    parameters: dict[str, object],
    fields: set[str],
    request: pytest.FixtureRequest,
) -> None:
    refused = sorted(set(_NAMES) - fields)
    model = _options(
        shared, shared.model(f"row-{request.node.callspec.id}", unknown_fields=refused), **options
    )
    shared.sql("update models set parameters = %s::jsonb where id = %s", json.dumps(parameters), model)
    await _ends(client, model, "By the row?", status="complete", text=reply_to("By the row?"))
    assert list(map(_named, _requests(shared, model))) == [fields]


# -- the context ------------------------------------------------------------------------------------


def _words(number: int, *, last: str) -> str:
    """Return a question of so many words, which the fake counts as tokens."""
    return " ".join(["word"] * (number - 1) + [last])


async def _chat(client: Client, model: str, pairs: int) -> tuple[str, list[str]]:
    """Return a chat with so many questions of ten words, and its turns: replies have two words more."""
    questions = [_words(10, last=str(number)) for number in range(pairs)]
    started, _ = await client.ask(questions[0], model)
    for question in questions[1:]:
        await client.ask(question, model, chatId=started["chatId"])
    return started["chatId"], [turn for question in questions for turn in (question, reply_to(question))]


def _is_newest(turns: list[str], history: list[str]) -> bool:
    """Tell whether turns are the newest of a history, whole pairs and the question."""
    return len(turns) % 2 == 1 and turns == history[len(history) - len(turns) :]


def _sizes(turns: list[str]) -> int:
    return sum(len(turn.split()) for turn in turns)


@wires
async def test_30_a_chat_that_outgrows_its_model_is_sent_in_part_and_goes_on(
    shared: World, client: Client, wire: str
) -> None:
    """As llama.cpp refuses it, with both numbers."""
    bound = 60
    model = shared.model(f"outgrown-{wire}", wire)
    chat, history = await _chat(client, model, 5)
    shared.fake.script(model, context_tokens=bound)
    before = len(_requests(shared, model))
    # A refusal of a server's first question comes by the SDK.
    for number, asker in enumerate((shared.client(shared.server()), client, client)):
        question = _words(10, last=f"more-{number}")
        _, reading = await asker.ask(question, model, chatId=chat)
        assert reading.text == reply_to(question)
        history += [question]
        asked = [[turn["content"] for turn in body["messages"]] for body in _requests(shared, model)[before:]]
        assert _sizes(asked[-1]) <= bound
        # One refusal is enough: its numbers say how much may be sent.
        assert len(asked) == 2
        assert _is_newest(asked[0], history)
        assert _is_newest(asked[1], history)
        assert 1 < len(asked[1]) < len(asked[0])
        assert "retrying" not in [event.get("state") for event in reading.events]
        history += [reading.text]
        before += len(asked)
    # A question that is too long by itself is an error of its own, and no part of what follows.
    started, reading = await client.ask(_words(bound + 20, last="long"), model, chatId=chat)
    assert reading.end is not None
    assert (reading.end["code"], reading.end["retryable"]) == ("context_too_long", False)
    assert (await client.reply(started))["errorCode"] == "context_too_long"
    _, reading = await client.ask("Shorter?", model, chatId=chat)
    assert reading.text == reply_to("Shorter?")
    assert _is_newest(sent(shared, model), [*history, "Shorter?"])


_TOO_LONG: dict[str, tuple[str, int, dict[str, Any]]] = {
    "openai": ("openai", 400, {"error": {"message": SECRET, "code": "context_length_exceeded"}}),
    "vllm": ("openai", 400, {"object": "error", "code": 400, "message":
             "This model's maximum context length is 60 tokens. However, you requested 98 tokens (88 in the"
             " messages, 10 in the completion). Please reduce the length of the messages."}),
    "litellm": ("openai", 400, {"error": {"message": "litellm.ContextWindowExceededError: too long"}}),
    "ollama": ("openai", 400, {"error": {"message": "input length exceeds the context length"}}),
    "anthropic": ("anthropic", 400, {"type": "error", "error": {"type": "invalid_request_error", "message":
                  "prompt is too long: 98 tokens > 60 maximum"}}),
    "too-large": ("anthropic", 413, {"error": {"type": "invalid_request_error", "message":
                  "input is too long for requested model"}}),
}  # fmt: skip


@pytest.mark.parametrize("name", _TOO_LONG)
async def test_30_a_context_that_is_refused_in_any_server_s_words_is_shortened(
    shared: World, client: Client, name: str
) -> None:
    wire, status, body = _TOO_LONG[name]
    model = shared.model(f"too-long-{name}", wire)
    chat, history = await _chat(client, model, 4)
    shared.fake.script(model, status=status, status_times=2, error_body=json.dumps(body))
    before = len(_requests(shared, model))
    _, reading = await client.ask("And now?", model, chatId=chat)
    assert reading.text == reply_to("And now?")
    asked = [
        [turn["content"] for turn in request["messages"]] for request in _requests(shared, model)[before:]
    ]
    assert len(asked) == 3
    assert all(_is_newest(turns, [*history, "And now?"]) for turns in asked)
    assert len(asked[0]) > len(asked[1]) > len(asked[2])


_ALONE: dict[str, tuple[str, dict[str, Any]]] = {
    "refused-openai": ("openai", {"context_tokens": 2}),
    "refused-anthropic": ("anthropic", {"context_tokens": 2}),
    "without-numbers": ("openai", {"status": 400, "error_body": json.dumps(_TOO_LONG["openai"][2])}),
    "in-the-stream-openai": (
        "openai", {"frames": [_ROLE, f"data: {json.dumps(_TOO_LONG['openai'][2])}\n\n"]}
    ),
    "in-the-stream-anthropic": (
        "anthropic", {"frames": [begin(), f"event: error\ndata: {json.dumps(_TOO_LONG['anthropic'][2])}\n\n"]}
    ),
    "with-the-status-of-a-success": (
        "openai", {"body": json.dumps(_TOO_LONG["vllm"][2]), "content_type": "application/json"}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", _ALONE)
async def test_30_a_question_that_is_too_long_by_itself_is_an_error_that_says_so(
    shared: World, client: Client, name: str
) -> None:
    wire, script = _ALONE[name]
    model = shared.model(f"alone-{name}", wire, **script)
    started, reading = await client.ask("Is this too long?", model)
    assert reading.end is not None
    assert (reading.end["code"], reading.end["retryable"]) == ("context_too_long", False)
    assert "too long" in reading.end["message"] or "longer" in reading.end["message"]
    assert "retryAfterMs" not in reading.end
    assert shared.fake.calls(model) == 1
    shared.fake.script(model)
    _, reading = await client.ask("Short?", model, chatId=started["chatId"])
    assert reading.text == reply_to("Short?")
    assert sent(shared, model) == ["Short?"]


async def test_30_a_model_s_row_bounds_its_context_in_tokens(shared: World, client: Client) -> None:
    # A digit is a token: a question has 10, its reply some more, and two pairs with a question do not fit.
    model = _options(shared, shared.model("bounded-in-tokens"), context_tokens=40)
    chat: dict[str, Any] = {}
    for number in range(5):
        started, reading = await client.ask(f"{number:010}", model, **chat)
        assert reading.text == reply_to(f"{number:010}")
        chat = {"chatId": started["chatId"]}
    assert sent(shared, model) == [f"{3:010}", reply_to(f"{3:010}"), f"{4:010}"]
