"""What a reply costs its asker, whose cache and whose name it is, and what reaches which provider."""

import asyncio
import json
import math
from functools import partial
from itertools import count
from typing import Any

import pytest

from local.fake_provider import reply_to
from tests.client import Client, Transcript, eventually
from tests.faults.proxy import FaultProxy
from tests.faults.test_provider_replies import (
    BEATS,
    DONE,
    SECRET,
    STOP,
    begin,
    chunk,
    delta,
    end,
    event,
    has_heard,
    reasoning,
    stopped,
    text,
)
from tests.faults.test_providers import WIRES, _ends, _fails, wires
from tests.world import World

_users = count()
# Ten characters: estimated as 3 tokens, which is what is set aside for it.
_QUESTION = "How much?!"
_SET_ASIDE = 3
_THOUGHT = "Let me think about that. " * 40


def _estimated(said: str) -> int:
    return math.ceil(len(said) / 4)


def _newcomer(world: World, **settings: str) -> Client:
    """Return a client of a user who has used nothing yet."""
    user = f"charged-{next(_users)}"
    world.sql("insert into users (id, plan_id) values (%s, 'pro')", user)
    return world.client(world.common_server(0, **settings), user)


def _charged(world: World, client: Client) -> tuple[int, int]:
    """Return the input and output tokens that a user was charged for in all."""
    [row] = world.sql(
        "select coalesce(sum(input_tokens), 0)::int, coalesce(sum(output_tokens), 0)::int from token_usage"
        " where user_id = %s",
        client.user,
    )
    return tuple(row)


def _counts(
    prompt: object, completion: object, total: object = None, thought: object = None
) -> dict[str, Any]:
    found: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion}
    if total is not None:
        found["total_tokens"] = total
    if thought is not None:
        found["completion_tokens_details"] = {"reasoning_tokens": thought}
    return found


def _counted(*counts: object) -> str:
    """Return the chunk that counts, without choices."""
    return chunk(choices=[], usage=_counts(*counts))


# -- what was counted -------------------------------------------------------------------------------

_LENGTH = chunk({}, "length")
_THINKS = event("content_block_delta", delta={"type": "thinking_delta", "thinking": _THOUGHT})
_TOLD = begin(input_tokens=105_000, output_tokens=1)
_FRAMES: dict[str, tuple[list[str], str, str, tuple[int, int]]] = {
    # xAI counts reasoning in the total alone, OpenAI in the completion too: the total decides.
    "reasoning-in-the-total": (
        [text("Four."), STOP, _counted(10120, 1499, 14428, 2809), DONE], "complete", "Four.", (10120, 4308)
    ),
    "reasoning-in-the-completion": (
        [text("Four."), STOP, _counted(50, 1970, 2020, 956), DONE], "complete", "Four.", (50, 1970)
    ),
    "reasoning-without-a-total": (
        [text("Four."), STOP, _counted(50, 1970, None, 956), DONE], "complete", "Four.", (50, 1970)
    ),
    "more-reasoning-than-completion-without-a-total": (
        [text("Four."), STOP, _counted(50, 10, None, 956), DONE], "complete", "Four.", (50, 966)
    ),
    "a-total-that-holds-not-even-its-parts": (
        [text("Four."), STOP, _counted(50, 10, 3), DONE], "complete", "Four.", (50, 10)
    ),
    "reasoning-to-its-length": (
        [reasoning(_THOUGHT), _LENGTH, _counted(11, 300, 311, 300), DONE], "truncated", "", (11, 300)
    ),
    "reasoning-to-its-length-uncounted": (
        [reasoning(_THOUGHT), _LENGTH, DONE], "truncated", "", (_SET_ASIDE, _estimated(_THOUGHT))
    ),
    "reasoning-in-tags-to-its-length-uncounted": (
        [text("<think>"), text(_THOUGHT), _LENGTH, DONE], "truncated", "", (_SET_ASIDE, _estimated(_THOUGHT))
    ),
    "reasoning-and-text-uncounted": (
        [reasoning(_THOUGHT), text("Four."), STOP, DONE], "complete", "Four.",
        (_SET_ASIDE, _estimated(_THOUGHT + "Four.")),
    ),
    "zeros": (
        [text("Twelve chars"), STOP, _counted(0, 0, 0), DONE], "complete", "Twelve chars", (_SET_ASIDE, 3)
    ),
    "no-output": (
        [text("Twelve chars"), STOP, _counted(7, 0, 7), DONE], "complete", "Twelve chars", (7, 3)
    ),
    "counts-that-cannot-be": (
        [text("Twelve chars"), STOP, _counted(-5, 10**12), DONE], "complete", "Twelve chars", (_SET_ASIDE, 3)
    ),
    "counts-as-it-goes": (
        [text("Twelve ", usage=_counts(7, 40, 47)), text("chars", usage=_counts(7, 80, 87)), STOP, DONE],
        "complete", "Twelve chars", (7, 80),
    ),
    "counts-as-it-goes-and-is-cut": (
        [text("Twelve ", usage=_counts(7, 40, 47)), text("chars", usage=_counts(7, 80, 87))],
        "truncated", "Twelve chars", (7, 80),
    ),
    "zeros-after-counts": (
        [text("Four.", usage=_counts(7, 40, 47)), STOP, _counted(0, 0, 0), DONE], "complete", "Four.", (7, 40)
    ),
    "uncounted": ([text("Twelve chars"), STOP, DONE], "complete", "Twelve chars", (_SET_ASIDE, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", _FRAMES)
async def test_what_a_completion_is_charged_is_what_its_server_counted_or_else_an_estimate(
    shared: World, name: str
) -> None:
    frames, status, reply, charge = _FRAMES[name]
    client = _newcomer(shared)
    model = shared.model(f"counts-{name}", frames=frames)
    reading, stored = await _ends(client, model, _QUESTION, status=status, text=reply)
    assert _charged(shared, client) == charge
    # What is shown is a count of the provider's or nothing.
    assert reading.end is not None
    usage = reading.end["usage"]
    assert usage == stored["usage"]
    assert usage is None or (usage["inputTokens"], usage["outputTokens"]) == charge
    if status == "complete":
        # The cache is free.
        _, again = await client.ask(_QUESTION, model)
        assert again.source == "cache"
        assert _charged(shared, client) == charge


_CACHED = {"cache_creation_input_tokens": 1253, "cache_read_input_tokens": 128_955}
_EVENTS: dict[str, tuple[list[str], str, str, tuple[int, int]]] = {
    "input-in-parts": (
        [begin(input_tokens=5, output_tokens=1, **_CACHED), delta("Four."), end(usage={"output_tokens": 9})],
        "complete", "Four.", (130_213, 9),
    ),
    "input-told-again": (
        [begin(input_tokens=5, **_CACHED), delta("Four."),
         end(usage={"input_tokens": 5, "output_tokens": 9})],
        "complete", "Four.", (130_213, 9),
    ),
    "input-told-late": (
        [begin(), delta("Four."), end(usage={"input_tokens": 70, "output_tokens": 9})],
        "complete", "Four.", (70, 9),
    ),
    "thinking-to-its-length": (
        [begin(input_tokens=11, output_tokens=1), _THINKS, end("max_tokens", usage={"output_tokens": 300})],
        "truncated", "", (11, 300),
    ),
    "cut-after-a-delta": (
        [_TOLD, delta("Twelve chars")],
        "truncated", "Twelve chars", (105_000, 3),
    ),
    "zeros": (
        [begin(input_tokens=0, output_tokens=0), delta("Twelve chars"), end(usage={"output_tokens": 0})],
        "complete", "Twelve chars", (_SET_ASIDE, 3),
    ),
    "uncounted": ([begin(), delta("Twelve chars"), end()], "complete", "Twelve chars", (_SET_ASIDE, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", _EVENTS)
async def test_what_a_message_is_charged_is_what_its_server_counted_or_else_an_estimate(
    shared: World, name: str
) -> None:
    frames, status, reply, charge = _EVENTS[name]
    client = _newcomer(shared)
    model = shared.model(f"counts-anthropic-{name}", "anthropic", frames=frames)
    reading, _ = await _ends(client, model, _QUESTION, status=status, text=reply)
    assert _charged(shared, client) == charge
    assert reading.end is not None
    usage = reading.end["usage"]
    assert usage is None or (usage["inputTokens"], usage["outputTokens"]) == charge


# -- what failed ------------------------------------------------------------------------------------

_OVERLOADED = event("error", error={"type": "overloaded_error", "message": SECRET})
_FAILED: dict[str, tuple[str, dict[str, Any], str, str, tuple[int, int]]] = {
    "overloaded-after-a-delta": (
        "anthropic", {"frames": [_TOLD, delta("Twelve chars"), _OVERLOADED]},
        "provider_overloaded", "Twelve chars", (105_000, 3),
    ),
    "overloaded-after-thinking": (
        "anthropic", {"frames": [_TOLD, _THINKS, _OVERLOADED]},
        "provider_overloaded", "", (105_000, _estimated(_THOUGHT)),
    ),
    "overloaded-before-anything": (
        "anthropic", {"frames": [_TOLD, _OVERLOADED]},
        "provider_overloaded", "", (0, 0),
    ),
    "broken-after-counts": (
        "openai", {"fault": "eof", "frames":
                   [text("Twelve ", usage=_counts(7, 40, 47)), text("chars", usage=_counts(7, 80, 87))]},
        "provider_interrupted", "Twelve chars", (7, 80),
    ),
    "broken-uncounted": (
        "openai", {"frames": [text("Twelve chars")], "fault": "eof"},
        "provider_interrupted", "Twelve chars", (_SET_ASIDE, 3),
    ),
    "blank-with-usage": (
        "openai", {"frames": [text("\n\n"), STOP, _counted(11, 4, 15), DONE]}, "empty_reply", "\n\n", (11, 4)
    ),
    "nothing-with-usage": (
        "openai", {"frames": [STOP, _counted(11, 4, 15), DONE]}, "empty_reply", "", (11, 4)
    ),
    "reasoning-alone-with-usage": (
        "openai", {"frames": [reasoning(_THOUGHT), STOP, _counted(11, 300, 311, 300), DONE]},
        "empty_reply", "", (11, 300),
    ),
    "reasoning-alone-uncounted": (
        "openai", {"frames": [reasoning(_THOUGHT), STOP, DONE]}, "empty_reply", "",
        (_SET_ASIDE, _estimated(_THOUGHT)),
    ),
    "thinking-alone-with-usage": (
        "anthropic", {"frames": [begin(input_tokens=11), _THINKS, end(usage={"output_tokens": 300})]},
        "empty_reply", "", (11, 300),
    ),
    "refused": ("openai", {"status": 500}, "provider_unavailable", "", (0, 0)),
    "refused-for-good": ("anthropic", {"status": 400}, "provider_bad_request", "", (0, 0)),
    "hung-up": ("openai", {"fault": "hangup"}, "provider_unavailable", "", (0, 0)),
    "no-reply": ("openai", {"body": "<html></html>"}, "provider_protocol", "", (0, 0)),
    "cut-before-anything": ("openai", {"fault": "cut"}, "provider_interrupted", "", (0, 0)),
    "nothing-uncounted": ("openai", {"tokens": [], "usage": "none"}, "empty_reply", "", (0, 0)),
}  # fmt: skip


@pytest.mark.parametrize("name", _FAILED)
async def test_a_failure_is_charged_for_what_was_told_or_produced_and_is_free_without_either(
    shared: World, name: str
) -> None:
    wire, script, code, reply, charge = _FAILED[name]
    client = _newcomer(shared)
    failed = await _fails(client, shared.model(f"failed-{name}", wire, **script), _QUESTION, reply)
    assert failed["code"] == code
    assert _charged(shared, client) == charge


# -- what was stopped -------------------------------------------------------------------------------

_STOPPED: dict[str, tuple[str, list[str], str, tuple[int, int]]] = {
    "reasoning": ("openai", [reasoning(_THOUGHT)], "", (_SET_ASIDE, _estimated(_THOUGHT))),
    "reasoning-in-tags": ("openai", [text("<think>" + _THOUGHT)], "", (_SET_ASIDE, _estimated(_THOUGHT))),
    "reasoning-after-text": (
        "openai", [text("Four.") + reasoning(_THOUGHT)], "Four.", (_SET_ASIDE, _estimated(_THOUGHT + "Four."))
    ),
    "counts-as-it-goes": (
        "openai", [text("Twelve chars", usage=_counts(7, 80, 87))], "Twelve chars", (7, 80)
    ),
    "thinking": ("anthropic", [_TOLD, _THINKS], "", (105_000, _estimated(_THOUGHT))),
    "one-delta": ("anthropic", [_TOLD, delta("Twelve chars")], "Twelve chars", (105_000, 3)),
    "no-delta": ("anthropic", [_TOLD], "", (105_000, 0)),
}  # fmt: skip


@pytest.mark.parametrize("name", _STOPPED)
async def test_12_a_stopped_reply_is_charged_for_what_was_told_and_produced(shared: World, name: str) -> None:
    wire, frames, reply, charge = _STOPPED[name]
    client = _newcomer(shared, **BEATS)
    model = shared.model(f"stopped-{name}", wire, frames=frames, fault="stall")
    _, reading = await stopped(client, model, _QUESTION, partial(has_heard, shared, model))
    assert reading.text == reply
    assert reading.end is not None
    assert reading.end["usage"] is None
    assert _charged(shared, client) == charge
    # In another process the stop is heard by way of the log, and by the writer itself.
    here = _newcomer(shared, **BEATS)
    there = shared.client(shared.common_server(1, **BEATS), here.user)
    model = shared.model(f"stopped-elsewhere-{name}", wire, frames=frames, fault="stall")
    started = await here.start(_QUESTION, model)
    reading = Transcript()
    reads = asyncio.create_task(here.read(started["sessionId"], reading))
    await has_heard(shared, model, reading)
    await there.stop(started["sessionId"])
    await asyncio.wait_for(reads, 20)
    assert reading.text == reply
    await eventually(lambda: _charged(shared, here) == charge)


# -- whose server it is -----------------------------------------------------------------------------

_SERVERS = (*WIRES, "xai")


def _urls(root: str) -> dict[str, str]:
    return {"OPENAI_BASE_URL": f"{root}/v1", "ANTHROPIC_BASE_URL": root, "XAI_BASE_URL": f"{root}/v1"}


@pytest.mark.parametrize("wire", _SERVERS)
async def test_42_another_server_s_reply_answers_nobody_here(shared: World, wire: str) -> None:
    model = shared.model(f"elsewhere-{wire}", wire, numbered=True)
    key = {"XAI_API_KEY": "key-of-the-fake"}
    settings = [
        _urls(shared.fake.url) | key,
        # Another path of the same host is another server, a slash at the end is none.
        _urls(f"{shared.fake.url}/other") | key,
        {name: f"{url}/" for name, url in _urls(shared.fake.url).items()} | key,
    ]
    here, other, same = (shared.common_server(0, **urls) for urls in settings)
    _, first = await shared.client(here).ask("Whose is it?", model)
    for user in ("demo-pro", "demo-free"):
        _, reading = await shared.client(same, user).ask("Whose is it?", model)
        assert (reading.source, reading.text) == ("cache", first.text)
    _, second = await shared.client(other).ask("Whose is it?", model)
    assert second.source == "provider"
    assert second.text != first.text
    _, reading = await shared.client(other, "demo-free").ask("Whose is it?", model)
    assert (reading.source, reading.text) == ("cache", second.text)
    assert shared.fake.calls(model) == 2


async def test_42_another_port_is_another_server(shared: World) -> None:
    async with FaultProxy(shared.fake.url) as proxy:
        model = shared.model("another-port", numbered=True)
        _, first = await shared.client(shared.common_server()).ask("Whose is it?", model)
        _, second = await shared.client(shared.server(**_urls(proxy.url))).ask("Whose is it?", model)
        assert (first.source, second.source) == ("provider", "provider")
        assert first.text != second.text


_OF_OPENAI = {
    "OPENAI_ORG_ID": "org-of-openai",
    "OPENAI_PROJECT_ID": "project-of-openai",
    "OPENAI_CUSTOM_HEADERS": "X-Of-Openai: header-of-openai",
    "OPENAI_API_KEY": "key-of-openai",
}
_OF_ANTHROPIC = {
    "ANTHROPIC_AUTH_TOKEN": "token-of-anthropic",
    "ANTHROPIC_CUSTOM_HEADERS": "X-Of-Anthropic: header-of-anthropic",
    "ANTHROPIC_API_KEY": "key-of-anthropic",
}


async def test_37_what_the_environment_has_for_one_provider_reaches_no_other(shared: World) -> None:
    server = shared.server(**_urls(shared.fake.url), **_OF_OPENAI, **_OF_ANTHROPIC, XAI_API_KEY="key-of-xai")
    client = shared.client(server)
    headers: dict[str, str] = {}
    for wire in _SERVERS:
        model = shared.model(f"headers-{wire}", wire)
        # The first question of a server goes by the SDK, those after it without.
        for question in ("Who?", "And who?"):
            _, reading = await client.ask(question, model)
            assert reading.text == reply_to(question)
        requests = [request for request in shared.fake.requests() if request["body"]["model"] == model]
        assert len(requests) == 2
        for request in requests:
            headers[wire] = json.dumps(request["headers"])
            for other in {"openai", "anthropic", "xai"} - {wire}:
                assert f"-of-{other}" not in headers[wire]
            assert f"key-of-{wire}" in headers[wire]
    for value in ("org-of-openai", "project-of-openai", "header-of-openai"):
        assert value in headers["openai"]


_NAMES = ("OpenAI", "xAI", "Anthropic", "Azure")


@pytest.mark.parametrize("wire", _SERVERS)
@pytest.mark.parametrize(
    "script",
    [
        *({"status": status} for status in (400, 401, 402, 429, 500, 503)),
        {"fault": "hangup"},
        {"fault": "error", "fault_after": 1},
        {"fault": "reset", "fault_after": 1, "delay": 0.01},
        {"fault": "json", "fault_after": 1},
        {"body": "<html></html>"},
        {"tokens": []},
        {"context_tokens": 1},
    ],
    ids=lambda script: "-".join(map(str, next(iter(script.items())))),
)
async def test_30_an_error_of_a_server_of_one_s_own_names_no_provider(
    shared: World, wire: str, script: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    client = shared.client(shared.common_server(0, **_urls(shared.fake.url), XAI_API_KEY="key-of-the-fake"))
    model = shared.model(f"names-{request.node.callspec.id}", wire, **script)
    _, reading = await client.ask("Whose fault is it?", model)
    assert reading.end is not None
    assert reading.end["type"] == "error"
    message = reading.end["message"]
    assert not [name for name in _NAMES if name.lower() in message.lower()]
    assert message[:1].isupper()


@wires
async def test_37_a_missing_key_names_the_provider_only_where_it_is_its_own_server(
    shared: World, wire: str
) -> None:
    owner = {"openai": "OpenAI", "anthropic": "Anthropic"}[wire]
    model = shared.model(f"no-key-{wire}", wire)
    keys = {"OPENAI_API_KEY": "", "ANTHROPIC_API_KEY": ""}
    theirs = {
        "OPENAI_BASE_URL": "https://api.openai.com/v1",
        "ANTHROPIC_BASE_URL": "https://api.anthropic.com",
    }
    failed = await _fails(shared.client(shared.common_server(0, **keys, **theirs)), model, "Is there a key?")
    assert failed["code"] == "model_not_configured"
    assert owner in failed["message"]
    client = shared.client(shared.common_server(0, **keys))
    _, reading = await client.ask("Is there a key now?", model)
    assert reading.end is not None
    if wire == "openai":
        # A compatible server may need none.
        assert reading.end["type"] == "done"
    else:
        assert reading.end["code"] == "model_not_configured"
        assert owner not in reading.end["message"]
