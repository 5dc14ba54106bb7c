"""What servers of Anthropic's wire send, and what is read of it."""

import json

import pytest

from parley.domain.events import Counted, Finish, FinishReason, Usage
from tests.providers.wires import data, event, messages

STOP = FinishReason.STOP
END = event("message_stop")
START = event("message_start", message={"usage": {"input_tokens": 7, "output_tokens": 1}})


def begin(block: dict[str, object], index: int = 0) -> str:
    return event("content_block_start", index=index, content_block=block)


def delta(index: int = 0, **fields: object) -> str:
    return event("content_block_delta", index=index, delta=fields)


def say(text: str) -> str:
    return delta(type="text_delta", text=text)


def stop(word: object = "end_turn", **usage: object) -> str:
    return event("message_delta", delta={"stop_reason": word}, usage=usage)


@pytest.mark.parametrize(
    ("pieces", "text", "reasoning"),
    [
        ((begin({"type": "text", "text": "Hello "}), say("world.")), "Hello world.", ""),
        ((begin({"type": "thinking", "thinking": "h"}), delta(type="thinking_delta", thinking="m")), "",
         "hm"),
        ((delta(text="Hello "), delta(thinking="hm")), "Hello ", "hm"),
        ((begin({"type": "connector_text", "text": "x"}), delta(type="connector_text_delta", text="x"),
         say("Hi")),
         "Hi", ""),
        ((begin({"type": "tool_use", "input": {}}), delta(type="input_json_delta", partial_json="{}"),
         say("Hi")),
         "Hi", ""),
        ((begin({"type": "text", "text": "<think>h"}), say("m</think>\n\n"), say("Hi")), "Hi", "hm"),
    ],
)  # fmt: skip
async def test_what_blocks_and_deltas_hold_is_read(
    pieces: tuple[str, ...], text: str, reasoning: str
) -> None:
    heard = await messages(START, *pieces, stop(output_tokens=9), END)
    assert (heard.text, heard.reasoning, heard.finish) == (
        text,
        reasoning,
        Finish(STOP, "end_turn", Usage(7, 9)),
    )


@pytest.mark.parametrize(
    "odd",
    [
        "data:\n\n", "event: ping\ndata:\n\n", "data: {}\n\n", "event: content_block_delta\ndata: {}\n\n",
        "data: null\n\n", data({"type": "novelty"}), data({"type": 7}), data({"type": "message_delta"}),
        "event: ping\ndata: ping\n\n",
        data({"type": "content_block_delta", "delta": 7}), data({"type": "content_block_delta",
         "delta": {"text": 7}}),
        data({"type": "content_block_start", "content_block": None}),
        data({"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": "many"}}),
        data({"type": "message_delta", "usage": [7]}), data({"type": "ping", "error": {}}),
        data({"type": "ping", "error": False}), data({"error": ""}),
    ],
)  # fmt: skip
async def test_what_carries_no_text_is_passed_over(odd: str) -> None:
    heard = await messages(START, odd, say("One "), odd, say("two"), odd, stop(output_tokens=9), END)
    assert (heard.text, heard.finish) == ("One two", Finish(STOP, "end_turn", Usage(7, 9)))


async def test_the_type_may_be_in_the_event_s_name_alone() -> None:
    def named(name: str, **fields: object) -> str:
        return f"event: {name}\ndata: {json.dumps(fields)}\n\n"

    heard = await messages(
        named("message_start", message={"usage": {"input_tokens": 7}}),
        named("content_block_delta", delta={"type": "text_delta", "text": "Hi"}),
        named("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 9}),
        named("message_stop"),
    )
    assert (heard.text, heard.finish) == ("Hi", Finish(STOP, "end_turn", Usage(7, 9)))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (event("error", error={"type": "overloaded_error"}), "provider_overloaded"),
        (data({"error": {"code": 429, "message": "Slow"}}), "provider_rate_limited"),
        ("event: error\ndata: {}\n\n", "provider_interrupted"),
        ("event: error\ndata: upstream timed out\n\n", "provider_interrupted"),
        (data([{"error": {"code": 503}}]), "provider_overloaded"),
        (data({"object": "error", "message": "Oh", "code": 500}), "provider_unavailable"),
        (data({"detail": "Oh"}), "provider_interrupted"),
        (event("message_delta", error={"type": "overloaded_error"}), "provider_overloaded"),
        (stop("error"), "provider_interrupted"),
        (stop("network_error"), "provider_interrupted"),
        (
            event("error", error={"type": "invalid_request_error", "message": "prompt is too long"}),
            "context_too_long",
        ),
    ],
)
async def test_an_error_inside_a_reply_is_that_error(error: str, code: str) -> None:
    heard = await messages(START, say("One "), error, END)
    assert (heard.text, heard.reason) == ("One ", code)


async def test_a_whole_message_from_a_server_that_does_not_stream_is_the_reply() -> None:
    body = {
        "type": "message",
        "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Hi"}],
        "stop_reason": "max_tokens",
        "usage": {"input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 9},
    }
    heard = await messages(json.dumps(body), label="application/json")
    assert (heard.text, heard.reasoning) == ("Hi", "hm")
    assert heard.finish == Finish(FinishReason.LENGTH, "max_tokens", Usage(7, 9))


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"type": "error", "error": {"type": "overloaded_error"}}, "provider_overloaded"),
        ({"error": {"code": 429}}, "provider_rate_limited"),
        ({"object": "error", "message": "Oh", "code": 500}, "provider_unavailable"),
        ({"message": "Slow", "code": 429}, "provider_rate_limited"),
        ({"detail": "Oh"}, "provider_interrupted"),
        ([{"error": {"code": 503}}], "provider_overloaded"),
        ({"hello": 1}, "provider_protocol"),
    ],
)
async def test_an_error_in_place_of_a_stream_is_that_error(body: object, code: str) -> None:
    heard = await messages(json.dumps(body), label="application/json")
    assert heard.reason == code


async def test_a_whole_message_in_an_event_and_text_at_the_start_are_read() -> None:
    content = [{"type": "text", "text": "Hello "}]
    usage = {"input_tokens": 7, "output_tokens": 9}
    whole = data({"type": "message", "content": content, "stop_reason": "end_turn", "usage": usage})
    heard = await messages(whole)
    assert (heard.text, heard.finish) == ("Hello ", Finish(STOP, "end_turn", Usage(7, 9)))
    start = event("message_start", message={"content": content, "usage": usage})
    heard = await messages(start, say("world."), stop(output_tokens=9), END)
    assert (heard.text, heard.finish) == ("Hello world.", Finish(STOP, "end_turn", Usage(7, 9)))


async def test_what_is_told_at_the_start_is_known_before_the_end() -> None:
    usage = {"input_tokens": 5, "cache_creation_input_tokens": 104_000, "cache_read_input_tokens": 995}
    start = event("message_start", message={"usage": usage | {"output_tokens": 1}})
    heard = await messages(start, say("One "), ConnectionResetError())
    assert [found for found in heard.events if isinstance(found, Counted)] == [Counted(105_000, None)]


async def test_the_marker_of_the_other_wire_ends_a_reply_that_has_its_reason() -> None:
    heard = await messages(START, say("One "), stop(output_tokens=9), "data: [DONE]\n\n")
    assert (heard.text, heard.reason) == ("One ", STOP)
    assert (await messages(START, say("One "), "data: [DONE]\n\n")).reason is None


async def test_a_zero_takes_no_count_back() -> None:
    heard = await messages(START, say("One "), stop(input_tokens=0, output_tokens=5), END)
    assert heard.finish == Finish(STOP, "end_turn", Usage(7, 5))


async def test_a_server_that_counts_no_input_does_not_count() -> None:
    start = event("message_start", message={"usage": {"input_tokens": 0, "output_tokens": 0}})
    heard = await messages(start, say("One "), stop(output_tokens=0), END)
    assert heard.finish == Finish(STOP, "end_turn", None)
