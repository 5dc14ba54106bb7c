"""What providers, gateways and model servers send in place of what their wire promises: rows 30 to 36."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from local.fake_provider import FakeProvider, Script, reply_to
from tests.client import Client, Transcript, eventually, text_of
from tests.faults.test_providers import WIRES, _ends, _fails, client, wires
from tests.world import World

__all__ = ["client"]

# The tries of a server that the settings leave as they are.
_ATTEMPTS = 3
# A provider's error text, which no user may see.
SECRET = "This text of the provider must never be shown."
# A server that beats so often tells early that it has been at work.
BEATS = {"HEARTBEAT_SECONDS": "0.2"}
# Another user, on another plan.
_OTHER_USER = "demo-free"


def _data(value: object) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def chunk(delta: object = None, finish: object = None, /, **fields: object) -> str:
    """Return a frame with a chunk of a chat completion."""
    choice = {"index": 0, "delta": {} if delta is None else delta, "finish_reason": finish}
    return _data({"object": "chat.completion.chunk", "choices": [choice], **fields})


def text(said: object, finish: str | None = None, /, **fields: object) -> str:
    """Return a chunk that says something."""
    return chunk({"content": said}, finish, **fields)


def reasoning(thought: object, finish: str | None = None) -> str:
    """Return a chunk that thinks."""
    return chunk({"reasoning_content": thought}, finish)


STOP = chunk({}, "stop")
DONE = "data: [DONE]\n\n"


def event(kind: str, /, **fields: object) -> str:
    """Return a frame with an event of Anthropic's wire."""
    return f"event: {kind}\n" + _data({"type": kind, **fields})


def begin(**usage: object) -> str:
    """Return the event that begins a message."""
    return event("message_start", message={"type": "message", "role": "assistant", "usage": usage})


def delta(said: object, /, **fields: object) -> str:
    """Return an event that says something."""
    return event(
        "content_block_delta", **{"index": 0, "delta": {"type": "text_delta", "text": said}} | fields
    )


def end(reason: object = "end_turn", /, **fields: object) -> str:
    """Return the events that end a message."""
    return event("message_delta", delta={"stop_reason": reason}, **fields) + event("message_stop")


def sent(world: World, model: str) -> list[str]:
    """Return the texts of the turns of a model's latest request."""
    requests = [request["body"] for request in world.fake.requests()]
    return [turn["content"] for turn in [body for body in requests if body["model"] == model][-1]["messages"]]


async def _is_whole(world: World, model: str, reply: str, **settings: str) -> None:
    """Ask, and have another user ask the same: both get the whole reply, for one call."""
    server = world.common_server(0, **settings)
    await _ends(world.client(server), model, "What comes?", status="complete", text=reply)
    other = world.client(server, _OTHER_USER)
    reading, _ = await _ends(other, model, "What comes?", status="complete", text=reply)
    assert reading.source == "cache"
    assert world.fake.calls(model) == 1


async def stopped(
    client: Client, model: str, prompt: str, ready: Callable[[Transcript], Awaitable[object]], **fields: Any
) -> tuple[dict[str, Any], Transcript]:
    """Ask, read, and stop once it is `ready`; what was shown is what is stored."""
    started = await client.start(prompt, model, **fields)
    reading = Transcript()
    reads = asyncio.create_task(client.read(started["sessionId"], reading))
    await ready(reading)
    await client.stop(started["sessionId"])
    await asyncio.wait_for(reads, 20)
    assert reading.end is not None
    assert reading.end["finishReason"] == "stopped"
    assert text_of(await client.reply(started)) == reading.text
    return started, reading


async def has_heard(world: World, model: str, reading: Transcript) -> None:
    """Wait until what a model has sent is shown, or has been read at least.

    The fake sends it with its first bytes, and a process that beats twice after that has read them.
    """
    await eventually(lambda: world.fake.calls(model) == 1)
    beats = reading.types().count("status")
    await eventually(lambda: reading.text or reading.types().count("status") >= beats + 2)


# -- where a reply ends -----------------------------------------------------------------------------

_STOPS = {
    "in-every-chunk": [text("One ", "stop"), text("two ", "stop"), text("three.", "stop"), DONE],
    "in-every-chunk-without-a-marker": [text("One ", "stop"), text("two ", "stop"), text("three.", "stop")],
    "before-any-text": [STOP, text("One "), text("two "), text("three."), DONE],
    "before-any-text-and-after-it": [STOP, text("One "), text("two "), text("three."), STOP, DONE],
    "in-the-middle": [text("One "), STOP, text("two "), STOP, text("three."), STOP, DONE],
    "before-reasoning": [STOP, reasoning("Hm."), text("One "), text("two three."), STOP, DONE],
    "with-reasoning": [reasoning("Hm.", "stop"), text("One "), text("two three."), DONE],
    "with-usage-in-every-chunk": [
        text("One ", "stop", usage={"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}),
        text("two ", "stop", usage={"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}),
        text("three.", "stop", usage={"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}),
        DONE,
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", _STOPS)
async def test_32_text_that_follows_a_finish_reason_belongs_to_the_reply(shared: World, name: str) -> None:
    # Every frame comes alone, and later than a response may take to end after its last one.
    model = shared.model(f"stops-{name}", frames=_STOPS[name], delay=0.1)
    await _is_whole(shared, model, "One two three.")


async def test_32_text_that_follows_a_stop_reason_of_anthropic_belongs_to_the_reply(shared: World) -> None:
    early = event("message_delta", delta={"stop_reason": "end_turn"})
    frames = [begin(), early, delta("One "), early, delta("two "), delta("three."), end()]
    model = shared.model("stops-anthropic", "anthropic", frames=frames, delay=0.1)
    await _is_whole(shared, model, "One two three.")


@pytest.mark.parametrize(
    ("frames", "said", "status", "reason"),
    [
        ([chunk({}, "length"), DONE], "", "truncated", "length"),
        ([reasoning("Hm."), chunk({}, "length"), DONE], "", "truncated", "length"),
        ([chunk({}, "content_filter"), DONE], "", "filtered", "content_filter"),
        ([text("One.", "stop"), chunk({}, "length"), DONE], "One.", "truncated", "length"),
        ([text("One.", "length"), text(" Two.", "stop"), DONE], "One. Two.", "complete", "stop"),
        ([chunk({}, "length"), text("One."), DONE], "One.", "truncated", "length"),
        ([chunk({}, "content_filter"), text("One."), DONE], "One.", "filtered", "content_filter"),
        ([STOP, text("One.")], "One.", "truncated", "truncated"),
    ],
    ids=[
        "length-alone", "length-after-reasoning", "filter-alone", "length-after-stop", "stop-after-length",
        "text-after-length", "text-after-filter", "stop-taken-back",
    ],
)  # fmt: skip
async def test_35_the_last_finish_reason_counts(
    shared: World,
    client: Client,
    frames: list[str],
    said: str,
    status: str,
    reason: str,
    request: pytest.FixtureRequest,
) -> None:
    model = shared.model(f"last-{request.node.callspec.id}", frames=frames, delay=0.02)
    reading, _ = await _ends(client, model, "What is last?", status=status, text=said)
    assert reading.end is not None
    assert reading.end["finishReason"] == reason
    assert "status" not in reading.types()
    assert shared.fake.calls(model) == 1


_USAGE_ALONE = chunk(choices=[], usage={"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5})


@pytest.mark.parametrize(
    ("gap", "frames"),
    [
        # Nothing but the gap can end this one.
        ("0.5", [text("One "), text("two."), STOP]),
        ("0.5", [text("One "), text("two.", "stop")]),
        ("0.5", [text("One ", "stop"), text("two.", "stop")]),
        # The gap is longer than the test is waited for.
        ("600", [text("One "), text("two."), STOP, _USAGE_ALONE]),
        ("600", [text("One ", "stop"), text("two.", "stop"), _USAGE_ALONE]),
        ("600", [text("One "), text("two."), STOP, DONE]),
    ],
    ids=["gap", "gap-after-text-and-reason", "gap-after-stops", "usage", "usage-after-stops", "marker"],
)
async def test_32_a_finished_reply_ends_though_its_connection_stays_open(
    shared: World, gap: str, frames: list[str], request: pytest.FixtureRequest
) -> None:
    model = shared.model(f"open-{request.node.callspec.id}", frames=frames, fault="stall")
    closed = shared.fake.stats()["closedEarly"]
    async with asyncio.timeout(30):
        await _is_whole(shared, model, "One two.", PROVIDER_GAP_SECONDS=gap)
    # The provider held on; it was Parley that left.
    shared.fake.until(lambda stats: stats["closedEarly"] == closed + 1)


# -- what carries text ------------------------------------------------------------------------------


def _beside(**fields: object) -> list[str]:
    return [text("Hello "), text("world.", **fields), STOP, DONE]


def _beside_in_delta(**fields: object) -> list[str]:
    return [text("Hello "), chunk({"content": "world.", **fields}), STOP, DONE]


def _between(frame: str) -> list[str]:
    return [text("Hello "), frame, text("world."), STOP, DONE]


def _thinking(*thoughts: object) -> dict[str, object]:
    return {"type": "thinking", "thinking": [*thoughts]}


_CHUNKS = {
    "usage-with-null-counts": _beside(usage={"prompt_tokens": None, "completion_tokens": None}),
    "usage-with-counts-as-text": _beside(usage={"prompt_tokens": "12", "completion_tokens": "3"}),
    "usage-with-fractions": _beside(usage={"prompt_tokens": 12.5, "completion_tokens": 3.5}),
    "usage-with-lists": _beside(usage={"prompt_tokens": [12], "completion_tokens": {"all": 3}}),
    "usage-with-odd-details": _beside(usage={"prompt_tokens": 2, "completion_tokens_details": [7]}),
    "usage-with-huge-counts": _beside(usage={"prompt_tokens": 10**30, "completion_tokens": -1}),
    "usage-as-list": _beside(usage=[12, 3]),
    "usage-as-text": _beside(usage="12 tokens"),
    "usage-false": _beside(usage=False),
    "error-empty": _beside(error={}),
    "error-without-words": _beside(error=""),
    "error-false": _beside(error=False),
    "error-null": _beside(error=None),
    "error-list": _beside(error=[]),
    "error-with-null-fields": _beside(error={"message": None, "code": None}),
    "object-number": _beside(object=7),
    "object-absent": _beside(object=None),
    "unknown-fields": _beside(id=7, created="now", service_tier={"x": 1}, obfuscation="abc"),
    "reasoning-object": _beside_in_delta(reasoning={"effort": "high"}),
    "reasoning-content-list": _beside_in_delta(reasoning_content=[1, 2]),
    "reasoning-false": _beside_in_delta(reasoning=False),
    "refusal-false": _beside_in_delta(refusal=False),
    "refusal-empty": _beside_in_delta(refusal=""),
    "role-number": _beside_in_delta(role=7),
    "tool-calls-null": _beside_in_delta(tool_calls=None, function_call=[]),
    "choices-null": _between(chunk(choices=None)),
    "choices-null-inside": _between(chunk(choices=[None])),
    "choices-empty": _between(chunk(choices=[])),
    "choices-object": _between(chunk(choices={"delta": "none"})),
    "choices-number": _between(chunk(choices=0)),
    "choice-null-before-text": [
        text("Hello "), chunk(choices=[None, {"index": 0, "delta": {"content": "world."}}]), STOP, DONE
    ],
    "delta-null": _between(chunk(choices=[{"index": 0, "delta": None, "finish_reason": None}])),
    "delta-text": _between(chunk("none")),
    "content-null": _between(text(None)),
    "content-number": _between(text(7)),
    "content-object": _between(text({"text": 7})),
    "content-false": _between(text(False)),
    "finish-reason-number": _between(chunk({}, 0)),
    "finish-reason-object": _between(chunk({}, {"reason": "stop"})),
    "finish-reason-empty": _between(chunk({}, "")),
    "finish-reason-null-in-words": _between(chunk({}, "null")),
    "data-empty": _between("data:\n\n"),
    "data-blank": _between("data:  \n\n"),
    "data-null": _between("data: null\n\n"),
    "data-list": _between("data: []\n\n"),
    "data-number": _between("data: 7\n\n"),
    "data-object-empty": _between("data: {}\n\n"),
    "ping": _between("data: ping\n\n"),
    "ping-in-brackets": _between("data: [PING]\n\n"),
    "ping-as-event": _between("event: ping\ndata: {}\n\n"),
    "ping-of-anthropic": _between('event: ping\ndata: {"type": "ping"}\n\n'),
    "comment": _between(": OPENROUTER PROCESSING\n\n"),
    "event-alone": _between("event: novelty\n\n"),
    "nul": [
        text("Hello "), 'data: {"choices":[{"delta":{"content":"wor\\u0000ld."}}]}\n\n', STOP, DONE
    ],
    "marker-in-lower-case": [text("Hello "), text("world."), STOP, "data: [done]\n\n"],
    "content-in-parts": [text([{"type": "text", "text": "Hello "}]), text("world."), STOP, DONE],
    "content-in-odd-parts": [
        text(["x", None, 7, {"type": "text"}, {"type": "text", "text": 7}, {"type": "novelty", "text": "x"}]),
        text([{"type": "text", "text": "Hello "}, {"type": "text", "text": "world."}]), STOP, DONE,
    ],
    "magistral": [
        text([_thinking({"type": "text", "text": "A secret thought."})]),
        text([{"type": "text", "text": "Hello "}]), text("world."), STOP, DONE,
    ],
    "magistral-together": [
        text([_thinking({"type": "text", "text": "A secret thought."}, {"type": "reference"}),
              {"type": "text", "text": "Hello "}]),
        text("world."), STOP, DONE,
    ],
    "magistral-odd": [
        text([_thinking(None, 7, "x", {"text": 7}), {"type": "thinking"}]),
        text([{"type": "thinking", "thinking": 7}]),
        text([{"type": "thinking", "thinking": "A secret thought."}]),
        text("Hello "), text("world."), STOP, DONE,
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", _CHUNKS)
async def test_36_an_odd_chunk_of_a_completion_loses_no_word(
    shared: World, client: Client, name: str
) -> None:
    model = shared.model(f"odd-{name}", frames=_CHUNKS[name], delay=0.005)
    reading, _ = await _ends(client, model, "What comes?", status="complete", text="Hello world.")
    assert "status" not in reading.types()


_WORLD = [begin(input_tokens=2), delta("Hello "), delta("world."), end(usage={"output_tokens": 2})]


def _amid(frame: str) -> list[str]:
    return [*_WORLD[:2], frame, *_WORLD[2:]]


def _block(**block: object) -> str:
    return event("content_block_start", index=0, content_block=block)


def _delta(**fields: object) -> str:
    return event("content_block_delta", index=0, delta=fields)


def _unnamed(frame: str) -> str:
    """Return an event whose type is in its data alone."""
    return frame.partition("\n")[2]


def _untyped(frame: str) -> str:
    """Return an event whose type is in its name alone."""
    name, _, data = frame.partition("\n")
    body = json.loads(data.removeprefix("data: "))
    del body["type"]
    return f"{name}\n{_data(body)}"


_EVENTS = {
    "text-at-the-beginning-of-a-block": [
        begin(), _block(type="text", text="Hello "), delta("world."), event("content_block_stop"), end()
    ],
    "text-in-blocks-alone": [
        begin(), _block(type="text", text="Hello "), _block(type="text", text="world."), end()
    ],
    "thinking-at-the-beginning-of-a-block": [
        begin(), _block(type="thinking", thinking="A secret thought."), _block(type="text", text="Hello "),
        delta("world."), end(),
    ],
    "types-in-names-alone": [begin(), *map(_untyped, (delta("Hello "), delta("world."),
        event("message_delta", delta={"stop_reason": "end_turn"}), event("message_stop")))],
    "types-in-data-alone": [begin(), *map(_unnamed, (delta("Hello "), delta("world."),
        event("message_delta", delta={"stop_reason": "end_turn"}), event("message_stop")))],
    "stop-with-empty-data": [*_WORLD[:3], event("message_delta", delta={"stop_reason": "end_turn"}),
        "event: message_stop\ndata: {}\n\n"],
    "marker-of-openai-after-the-end": [*_WORLD, DONE],
    "no-beginning": _WORLD[1:],
    "usage-with-null-counts": [begin(input_tokens=None, output_tokens=None), *_WORLD[1:]],
    "usage-with-counts-as-text": [begin(input_tokens="2"), *_WORLD[1:3], end(usage={"output_tokens": "2"})],
    "usage-with-fractions": [begin(input_tokens=2.5), *_WORLD[1:3], end(usage={"output_tokens": 2.5})],
    "usage-as-list": [begin(), *_WORLD[1:3], end(usage=[2, 2])],
    "usage-null": [begin(), *_WORLD[1:3], end(usage=None)],
    "message-null": [event("message_start", message=None), *_WORLD[1:]],
    "message-text": [event("message_start", message="hello"), *_WORLD[1:]],
    "block-null": _amid(event("content_block_start", index=0, content_block=None)),
    "block-of-an-unknown-kind": _amid(_block(type="novelty", text="not shown")),
    "block-with-odd-text": _amid(_block(type="text", text=7)),
    "block-with-null-text": _amid(_block(type="text", text=None)),
    "delta-null": _amid(event("content_block_delta", index=0, delta=None)),
    "delta-list": _amid(event("content_block_delta", index=0, delta=[1])),
    "delta-of-an-unknown-kind": _amid(_delta(type="novelty_delta", text="x")),
    "delta-with-odd-text": _amid(delta(7)),
    "delta-with-null-text": _amid(delta(None)),
    "delta-with-a-citation": _amid(_delta(type="citations_delta", citation={})),
    "index-missing": [begin(), delta("Hello ", index=None), delta("world.", index="1"), end()],
    "error-empty": [begin(), delta("Hello ", error={}), delta("world.", error=None), end(error="")],
    "error-false-alone": _amid(_data({"error": False})),
    "event-of-an-unknown-type": _amid(event("novelty", deep=[1, 2, 3])),
    "event-type-number": _amid(_data({"type": 7})),
    "event-with-an-empty-object": _amid("event: content_block_delta\ndata: {}\n\n"),
    "event-with-an-empty-object-and-no-name": _amid("data: {}\n\n"),
    "event-without-data": _amid("event: content_block_delta\ndata:\n\n"),
    "event-with-a-list": _amid("event: content_block_delta\ndata: []\n\n"),
    "ping-without-data": _amid("event: ping\n\n"),
    "ping-with-empty-data": _amid("event: ping\ndata:\n\n"),
    "comment": _amid(": keep-alive\n\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", _EVENTS)
async def test_36_an_odd_event_of_a_message_loses_no_word(shared: World, client: Client, name: str) -> None:
    model = shared.model(f"odd-anthropic-{name}", "anthropic", frames=_EVENTS[name], delay=0.005)
    reading, _ = await _ends(client, model, "What comes?", status="complete", text="Hello world.")
    assert "status" not in reading.types()


@pytest.mark.parametrize("split", [1, 2, 3])
async def test_38_a_character_in_halves_is_whole_and_only_a_lost_half_is_not(
    shared: World, split: int
) -> None:
    """In this process, for no JSON holds half a character: a lone surrogate stands for one of its bytes."""
    emoji = "🦜".encode().decode("ascii", "surrogateescape")
    first, second = f"Hello {emoji[:split]}", f"{emoji[split:]} world."
    frames = {
        "halves-openai": (text(first), text(second), STOP + DONE),
        "halves-anthropic": (begin(), delta(first), delta(second), end()),
        "lost-openai": (text(first), text(" world."), STOP + DONE),
        "lost-anthropic": (begin(), delta(first), delta(" world."), end()),
    }
    async with FakeProvider() as provider:
        server = shared.server(OPENAI_BASE_URL=provider.openai_url, ANTHROPIC_BASE_URL=provider.url)
        client = shared.client(server)
        for name, script in frames.items():
            model = shared.model(name, name.partition("-")[2])
            provider.script(model, Script(frames=script, delay=0.01))
            lost = name.startswith("lost")
            said = "Hello \ufffd world." if lost else "Hello 🦜 world."
            reading, _ = await _ends(client, model, f"Halves {split}?", status="complete", text=said)
            # Nobody is shown half a character first.
            shown = [piece["content"] for piece in reading.events if piece["type"] == "token"]
            assert lost or not any("\ufffd" in piece for piece in shown)
            assert provider.stats.calls_by_model[model] == 1
            provider.script(model, None)


# -- the words for an end ---------------------------------------------------------------------------


_WORDS = {
    ("complete", "stop"): {
        "openai": "STOP Stop end END completed complete eos EOS_TOKEN END_TURN stop_sequence finished",
        "anthropic": "END_TURN stop STOP_SEQUENCE completed",
    },
    ("truncated", "length"): {
        "openai": "LENGTH MAX_TOKENS max_tokens max_output_tokens model_length",
        "anthropic": "MAX_TOKENS model_context_window_exceeded",
    },
    ("filtered", "content_filter"): {
        "openai": "SAFETY Content_Filter RECITATION PROHIBITED_CONTENT content_filtered REFUSAL sensitive",
        "anthropic": "REFUSAL sensitive guardrail_intervened",
    },
}


@pytest.mark.parametrize(
    ("wire", "word", "status", "reason"),
    [
        (wire, word, *meaning)
        for meaning, words in _WORDS.items()
        for wire, said in words.items()
        for word in said.split()
    ],
)
async def test_35_a_finish_reason_in_any_server_s_words_is_understood(
    shared: World, client: Client, wire: str, word: str, status: str, reason: str
) -> None:
    model = shared.model(f"word-{wire}-{word}", wire, finish=word)
    reply = reply_to("Which word?")
    reading, _ = await _ends(client, model, "Which word?", status=status, text=reply)
    assert reading.end is not None
    assert (reading.end["type"], reading.end["finishReason"]) == ("done", reason)


# -- nothing to see ---------------------------------------------------------------------------------


@wires
@pytest.mark.parametrize("how", ["whole", "stopped", "cut"])
@pytest.mark.parametrize("blank", ["\n\n", " ", "\u00a0\u200b\t"], ids=["lines", "space", "invisible"])
async def test_34_a_blank_reply_is_an_error_and_never_sent_to_a_model(
    shared: World, wire: str, how: str, blank: str
) -> None:
    model = shared.model(f"blank-{wire}-{how}-{len(blank)}{blank.isascii()}", wire)
    server = shared.common_server(0, **BEATS)
    client = shared.client(server)
    good, _ = await client.ask("Are you there?", model)
    chat = good["chatId"]
    shared.fake.script(
        model, tokens=[blank], fault={"stopped": "stall", "cut": "cut"}.get(how), fault_after=1
    )
    if how == "whole":
        # Neither is another's question answered by it.
        for calls, user in enumerate(("demo-pro", _OTHER_USER), 1):
            asker = shared.client(server, user)
            failed = await _fails(asker, model, "Is it blank?", blank)
            assert (failed["code"], failed["retryable"]) == ("empty_reply", True)
            assert shared.fake.calls(model) == calls
        await client.ask("Is it blank?", model, chatId=chat)
    elif how == "stopped":
        heard = partial(has_heard, shared, model)
        _, reading = await stopped(client, model, "Is it blank?", heard, chatId=chat)
        # White space that may come before a tag is kept back for it.
        assert reading.text in ("", blank)
    else:
        _, reading = await client.ask("Is it blank?", model, chatId=chat)
        assert reading.text in ("", blank)
    # Another provider may be stricter with what is sent to it.
    other = shared.model(f"other-than-{model}", next(one for one in WIRES if one != wire))
    shared.fake.script(model)
    turns = ["Are you there?", reply_to("Are you there?")]
    for asked, question in ((model, "And now?"), (other, "And there?")):
        _, reading = await client.ask(question, asked, chatId=chat)
        assert reading.text == reply_to(question)
        assert sent(shared, asked) == [*turns, question]
        turns += [question, reading.text]


@wires
@pytest.mark.parametrize(
    "script",
    [
        {"finish": "content_filter"},
        {"finish": "content_filter", "tokens": []},
        {"refusal": True, "tokens": ["I cannot ", "help with that."]},
    ],
    ids=["filtered", "filtered-at-once", "refused"],
)
async def test_35_what_a_provider_refused_is_not_sent_again_nor_is_its_question(
    shared: World, client: Client, wire: str, script: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    model = shared.model(f"filtered-{request.node.callspec.id}", wire)
    started, _ = await client.ask("A good question?", model)
    shared.fake.script(model, **script)
    refused, reading = await client.ask("A bad question?", model, chatId=started["chatId"])
    assert (await client.reply(refused))["status"] == "filtered"
    shared.fake.script(model)
    _, reading = await client.ask("Another?", model, chatId=started["chatId"])
    assert reading.text == reply_to("Another?")
    assert sent(shared, model) == ["A good question?", reply_to("A good question?"), "Another?"]
    # It is still there to be read.
    page = await client.history(started["chatId"])
    assert "A bad question?" in [text_of(message) for message in page["messages"]]


# -- reasoning in tags ------------------------------------------------------------------------------

_THOUGHT = "\nA secret thought: 1 < 2.\n"


@wires
@pytest.mark.parametrize(
    "tokens",
    [
        ["<think>", _THOUGHT, "</think>", "\n\n", "The ", "answer."],
        ["<th", "ink>\nA ", "secret thou", "ght</", "think", ">\n", "\nThe answer."],
        ["\n", " <think>", _THOUGHT, "</think>The answer."],
        [f"<think>{_THOUGHT}</think>\n\nThe answer."],
        ["<think>", "\n\n", "</think>", "\n\n", "The answer."],
        ["</think>", "\n\n", "The answer."],
        ["<thinking>", _THOUGHT, "</thinking>", "\n\n", "The answer."],
        ["<thought>", _THOUGHT, "</thought>", "The answer."],
        ["[THINK]", _THOUGHT, "[/THINK]", "The answer."],
        ["◁think▷", _THOUGHT, "◁/think▷", "The answer."],
    ],
    ids=[
        "tokens", "pieces", "white-space-before", "lump", "empty", "end-alone", "thinking", "thought",
        "magistral", "kimi",
    ],
)  # fmt: skip
async def test_36_reasoning_in_tags_is_in_no_reply_no_history_no_cache_and_no_context(
    shared: World, client: Client, wire: str, tokens: list[str], request: pytest.FixtureRequest
) -> None:
    model = shared.model(f"tags-{request.node.callspec.id}", wire, tokens=tokens, delay=0.01)
    await _is_whole(shared, model, "The answer.")
    started, reading = await client.ask("What comes?", model)
    assert "secret" not in json.dumps(reading.events)
    [[parts]] = shared.sql("select parts::text from messages where id = %s", started["replyId"])
    assert "secret" not in parts
    shared.fake.script(model)
    await client.ask("And then?", model, chatId=started["chatId"])
    assert sent(shared, model) == ["What comes?", "The answer.", "And then?"]


@wires
@pytest.mark.parametrize(
    ("tokens", "script", "status", "said"),
    [
        (["A ", "<think>", "tag</think> in the middle."], {}, "complete", None),
        (["<thin", "k of it", ">"], {}, "complete", None),
        (["<think"], {}, "complete", None),
        (["<think>", "The tag is never ", "closed."], {}, "complete", None),
        (["<think>", "It goes on ", "and on"], {"finish": "length"}, "truncated", ""),
    ],
    ids=["middle", "no-tag", "half-a-tag", "unclosed", "unclosed-at-length"],
)
async def test_36_what_is_no_reasoning_by_its_tags_stays_in_the_reply(
    shared: World,
    client: Client,
    wire: str,
    tokens: list[str],
    script: dict[str, Any],
    status: str,
    said: str | None,
    request: pytest.FixtureRequest,
) -> None:
    model = shared.model(f"no-tags-{request.node.callspec.id}", wire, tokens=tokens, delay=0.01, **script)
    reply = "".join(tokens) if said is None else said
    if status == "complete":
        await _is_whole(shared, model, reply)
    else:
        await _ends(client, model, "What comes?", status=status, text=reply)


# -- errors inside a reply --------------------------------------------------------------------------


def _named(kind: str) -> dict[str, object]:
    """Return an error as Anthropic words it."""
    return {"type": kind, "message": SECRET}


_OPENAI_ERRORS = {
    "vllm": (_data({"object": "error", "message": SECRET, "type": "InternalServerError", "code": 500}),
             "provider_unavailable", True),
    "vllm-bad-request": (
        _data({"object": "error", "message": SECRET, "type": "BadRequestError", "code": 400}),
        "provider_bad_request", False,
    ),
    "in-a-choice": (
        chunk(choices=[{"delta": {}, "finish_reason": "error", "error": {"code": 429, "message": SECRET}}]),
        "provider_rate_limited", True,
    ),
    "in-a-choice-without-a-reason": (
        chunk(choices=[{"delta": {}, "error": {"code": 503, "message": SECRET}}]), "provider_overloaded", True
    ),
    "beside-a-choice": (
        chunk({"content": ""}, "error", error={"code": 502, "message": SECRET}), "provider_unavailable", True
    ),
    "finish-error": (chunk({}, "error"), "provider_interrupted", True),
    "finish-overloaded-error": (chunk({}, "overloaded_error"), "provider_overloaded", True),
    "finish-rate-limit-error": (chunk({}, "rate_limit_error"), "provider_rate_limited", True),
    "finish-network-error": (chunk({}, "network_error"), "provider_interrupted", True),
    "finish-error-in-upper-case": (chunk({}, "OVERLOADED_ERROR"), "provider_overloaded", True),
    "finish-resources": (chunk({}, "insufficient_system_resource"), "provider_overloaded", True),
    "openai": (_data({"error": {"message": SECRET, "type": "server_error", "code": None}}),
               "provider_interrupted", True),
    "quota": (_data({"error": {"message": SECRET, "type": "insufficient_quota", "code": None}}),
              "provider_quota", False),
    "text": (_data({"error": SECRET}), "provider_interrupted", True),
    "tgi": (_data({"error": SECRET, "error_type": "overloaded"}), "provider_overloaded", True),
    "named": (f"event: error\n{_data({'message': SECRET, 'code': 503})}", "provider_overloaded", True),
    "named-in-words": ("event: error\ndata: upstream timed out\n\n", "provider_interrupted", True),
    "anthropic-s": (event("error", error=_named("overloaded_error")),
                    "provider_overloaded", True),
    "gemini": (_data([{"error": {"code": 503, "message": SECRET, "status": "UNAVAILABLE"}}]),
               "provider_overloaded", True),
}  # fmt: skip

_ANTHROPIC_ERRORS = {
    "overloaded": (event("error", error=_named("overloaded_error")), "provider_overloaded", True),
    "rate": (event("error", error=_named("rate_limit_error")), "provider_rate_limited", True),
    "api": (event("error", error=_named("api_error")), "provider_interrupted", True),
    "bad": (event("error", error=_named("invalid_request_error")), "provider_bad_request", False),
    "named-alone": (
        f"event: error\n{_data({'error': _named('overloaded_error')})}",
        "provider_overloaded", True,
    ),
    "named-in-words": ("event: error\ndata: upstream timed out\n\n", "provider_interrupted", True),
    "openai-s": (_data({"error": {"message": SECRET, "code": 429}}), "provider_rate_limited", True),
    "stop-overloaded-error": (end("overloaded_error"), "provider_overloaded", True),
    "stop-error": (end("error"), "provider_interrupted", True),
}  # fmt: skip
_ERRORS = [
    pytest.param(wire, name, *row, id=f"{wire}-{name}")
    for wire, rows in (("openai", _OPENAI_ERRORS), ("anthropic", _ANTHROPIC_ERRORS))
    for name, row in rows.items()
]


@pytest.mark.parametrize(("wire", "name", "frame", "code", "retryable"), _ERRORS)
async def test_31_an_error_in_any_shape_after_text_is_that_error_with_the_text_kept(
    shared: World, client: Client, wire: str, name: str, frame: str, code: str, retryable: bool
) -> None:
    said = [text("One "), text("two")] if wire == "openai" else [begin(), delta("One "), delta("two")]
    after = [DONE] if wire == "openai" else [event("message_stop")]
    model = shared.model(f"error-after-{wire}-{name}", wire, frames=[*said, frame, *after], delay=0.005)
    failed = await _fails(client, model, "What went wrong?", "One two")
    assert (failed["code"], failed["retryable"]) == (code, retryable)
    assert shared.fake.calls(model) == 1


@pytest.mark.parametrize(("wire", "name", "frame", "code", "retryable"), _ERRORS)
async def test_30_an_error_in_any_shape_before_text_is_tried_again_as_a_status_is(
    shared: World, client: Client, wire: str, name: str, frame: str, code: str, retryable: bool
) -> None:
    begun = [chunk({"role": "assistant", "content": ""})] if wire == "openai" else [begin()]
    model = shared.model(f"error-before-{wire}-{name}", wire, frames=[*begun, frame], delay=0.005)
    reading, _ = await _ends(client, model, "What went wrong?", status="failed", text="")
    assert reading.end is not None
    assert (reading.end["code"], reading.end["retryable"]) == (code, retryable)
    assert ("status" in reading.types()) == retryable
    assert shared.fake.calls(model) == (_ATTEMPTS if retryable else 1)


# -- what a response is -----------------------------------------------------------------------------

_LABELS = {
    "json": "application/json",
    "plain": "text/plain; charset=utf-8",
    "doubled": "text/event-stream, text/event-stream",
    "upper-case": "Text/Event-Stream",
    "bytes": "application/octet-stream",
    "html": "text/html",
    "none": "",
}


@wires
@pytest.mark.parametrize("label", _LABELS)
async def test_36_an_event_stream_by_any_label_is_a_reply(shared: World, wire: str, label: str) -> None:
    model = shared.model(f"label-{wire}-{label}", wire, content_type=_LABELS[label])
    await _is_whole(shared, model, reply_to("What comes?"))


_COMPLETION = {
    "object": "chat.completion",
    "choices": [{"message": {"role": "assistant", "content": "All at once."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15},
}  # fmt: skip
_MESSAGE = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "All at once."}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 11, "output_tokens": 4},
}


@wires
@pytest.mark.parametrize("label", ["application/json", "text/event-stream", "text/plain"])
async def test_36_a_whole_completion_from_a_server_that_does_not_stream_is_the_reply(
    shared: World, client: Client, wire: str, label: str
) -> None:
    whole = json.dumps(_COMPLETION if wire == "openai" else _MESSAGE, indent=2)
    model = shared.model(f"whole-{wire}-{label}", wire, body=whole, content_type=label)
    await _is_whole(shared, model, "All at once.")
    started, _ = await client.ask("What comes?", model)
    assert (await client.reply(started))["usage"] == {"inputTokens": 11, "outputTokens": 4, "totalTokens": 15}


_JSON_ERRORS = {
    "rate": ({"error": {"code": 429, "message": SECRET}}, "provider_rate_limited", True),
    "overloaded": ({"error": _named("overloaded_error")}, "provider_overloaded", True),
    "typed": ({"type": "error", "error": _named("api_error")}, "provider_interrupted", True),
    "gemini": ([{"error": {"code": 503, "message": SECRET, "status": "UNAVAILABLE"}}],
               "provider_overloaded", True),
    "text": ({"error": SECRET}, "provider_interrupted", True),
    "key": ({"error": {"code": 401, "message": SECRET}}, "provider_auth", False),
    "bad": ({"error": _named("invalid_request_error")}, "provider_bad_request", False),
}  # fmt: skip


@wires
@pytest.mark.parametrize("name", _JSON_ERRORS)
async def test_30_an_error_with_the_status_of_a_success_is_that_error(
    shared: World, client: Client, wire: str, name: str
) -> None:
    body, code, retryable = _JSON_ERRORS[name]
    model = shared.model(f"json-{wire}-{name}", wire, body=json.dumps(body), content_type="application/json")
    failed = await _fails(client, model, "Is it well?")
    assert (failed["code"], failed["retryable"]) == (code, retryable)
    assert shared.fake.calls(model) == (_ATTEMPTS if retryable else 1)


@wires
@pytest.mark.parametrize("label", ["text/html", "text/event-stream"])
@pytest.mark.parametrize(
    "body",
    [
        "<!DOCTYPE html><html><body>Please log in.</body></html>",
        "<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
        '{"status": "ok"}',
        '{"choices": [{"mess',
    ],
    ids=["html", "xml", "other-json", "half-a-json"],
)
async def test_31_a_response_that_is_no_reply_is_refused_by_any_label(
    shared: World, client: Client, wire: str, label: str, body: str, request: pytest.FixtureRequest
) -> None:
    model = shared.model(f"no-reply-{request.node.callspec.id}", wire, body=body, content_type=label)
    failed = await _fails(client, model, "Who are you?")
    assert (failed["code"], failed["retryable"]) == ("provider_protocol", False)
    assert shared.fake.calls(model) == 1
