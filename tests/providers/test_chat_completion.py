"""What servers of OpenAI's wire send, and what is read of it."""

import json
from typing import Any

import pytest

from parley.domain.events import Counted, Delta, Finish, FinishReason, Ping, Reasoning, Usage
from tests.providers.wires import DONE, chat, data, event, stop, t

STOP, LENGTH, FILTER = FinishReason.STOP, FinishReason.LENGTH, FinishReason.CONTENT_FILTER
USAGE = {"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 16}


def usage(**counts: object) -> str:
    """Return a chunk with a usage and no choices."""
    return data({"choices": [], "usage": counts})


# -- the end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "text", "reason"),
    [
        ((t("One ", "stop"), t("two ", "stop"), t("three.", "stop"), DONE), "One two three.", STOP),
        ((t("One ", "stop"), t("two ", "stop"), t("three.", "stop")), "One two three.", None),
        ((t("One ", "stop"), t("two ", "stop"), t("three.", "stop"), ConnectionResetError()), "One two"
         " three.",
         "provider_interrupted"),
        ((t("", "stop"), t("One "), t("two."), DONE), "One two.", STOP),
        ((t("", "stop"), t("One "), t("two.")), "One two.", None),
        ((t("", "stop"), t("One "), stop(), DONE), "One ", STOP),
        ((t("One "), stop(), stop("length"), DONE), "One ", LENGTH),
        ((stop("length"), DONE), "", LENGTH),
        ((stop("content_filter"), DONE), "", FILTER),
        ((t("One "), stop(), ConnectionResetError()), "One ", STOP),
        ((t("One "), stop()), "One ", STOP),
        ((t("One "), DONE), "One ", None),
        # Beside text a finish reason vouches for nothing that a connection breaks off, nor where others were
        # taken back.
        ((t("One ", "stop"), ConnectionResetError()), "One ", "provider_interrupted"),
        ((t("One ", "stop"), t("two ", "stop")), "One two ", None),
        ((t("One ", "stop"),), "One ", STOP),
        # What was held back is no reply where nothing else came: it may be asked for again.
        ((t("\n\n"), ConnectionResetError()), "", "provider_interrupted"),
        ((t("\n\n"), data({"error": {"type": "overloaded_error"}})), "", "provider_overloaded"),
        ((t("<"), data({"error": {"type": "overloaded_error"}})), "", "provider_overloaded"),
        ((t("\n\n"),), "", None),
        ((t("", "stop"), ConnectionResetError()), "", "provider_interrupted"),
        ((t("\n\n"), stop(), DONE), "\n\n", STOP),
        ((t("One "),), "One ", None),
        ((t("One "), stop(), data({"choices": [{"delta": {"reasoning": "hm"}}]})), "One ", None),
        ((t("One "), t("", ""), t("two", "null"), t("", {"reason": "x"}), stop(), DONE), "One two", STOP),
        ((t("One "), stop(), "data:  [DONE] \n\n"), "One ", STOP),
        ((t("One ") + stop() + DONE + t("two"),), "One ", STOP),
    ],
)  # fmt: skip
async def test_a_finish_reason_stands_unless_something_follows(
    pieces: tuple[Any, ...], text: str, reason: FinishReason | str | None
) -> None:
    heard = await chat(*pieces)
    assert (heard.text, heard.reason) == (text, reason)


async def test_a_finish_reason_is_told_before_the_connection_ends() -> None:
    heard = await chat(t("One "), stop(), ": waiting\n\n", DONE)
    assert heard.events.count(Finish(STOP, "stop")) == 2
    assert heard.events[-2:] == [Ping(), Finish(STOP, "stop")]


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ((t("", "stop"), t("One "), stop()), "One "),
        ((t("One ", "stop"), t("two ", "stop"), t("three.", "stop")), "One two three."),
        ((t("One "), stop(), data({"choices": [{"delta": {"reasoning": "hm"}}]}), stop()), "One "),
        ((t("["), stop()), "["),
    ],
)
async def test_on_an_open_connection_the_last_finish_reason_stands(
    pieces: tuple[str, ...], text: str
) -> None:
    heard = await chat(*pieces, TimeoutError())
    told = [found for found in heard.events if isinstance(found, Delta | Reasoning | Finish)]
    assert told[-1] == Finish(STOP, "stop") or isinstance(told[-2], Finish)
    assert heard.text == text


async def test_the_usage_alone_after_a_finish_reason_ends_a_reply_without_its_marker() -> None:
    heard = await chat(t("One "), stop(), usage(**USAGE), ConnectionResetError())
    assert heard.finish == Finish(STOP, "stop", Usage(7, 9))
    heard = await chat(t("One "), usage(**USAGE), t("two"), stop(), ConnectionResetError())
    assert (heard.text, heard.reason) == ("One two", STOP)
    # However it is cut, and whatever an empty one says.
    pieces = (t("One ", "stop"), usage(**USAGE), t("two ", "stop"), usage(**USAGE), DONE)
    for cut in (pieces, ("".join(pieces),), (usage(), t("", "stop"), usage(), *pieces)):
        heard = await chat(*cut)
        assert (heard.text, heard.reason) == ("One two ", STOP)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("STOP", STOP), ("eos", STOP), ("eos_token", STOP), ("stop_sequence", STOP), ("END_TURN", STOP),
        ("COMPLETE", STOP), ("end", STOP), ("completed", STOP), ("FINISHED", STOP),
        ("MAX_TOKENS", LENGTH), ("model_length", LENGTH), ("token_limit", LENGTH), ("Length", LENGTH),
        ("model_context_window_exceeded", LENGTH), ("max_output_tokens", LENGTH),
        ("SAFETY", FILTER), ("RECITATION", FILTER), ("sensitive", FILTER), ("content-filter", FILTER),
        ("guardrail_intervened", FILTER), ("ERROR_TOXIC", FILTER), ("PROHIBITED_CONTENT", FILTER),
        ("tool_calls", FinishReason.TRUNCATED), ("time_limit", FinishReason.TRUNCATED),
        ("error", "provider_interrupted"), ("abort", "provider_interrupted"),
        ("network_error", "provider_interrupted"), ("overloaded_error", "provider_overloaded"),
        ("insufficient_system_resource", "provider_overloaded"), ("rate_limit_error",
         "provider_rate_limited"),
    ],
)  # fmt: skip
async def test_servers_have_many_words_for_the_end(word: str, reason: FinishReason | str) -> None:
    heard = await chat(t("One "), stop(word), DONE)
    assert (heard.text, heard.reason) == ("One ", reason)


# -- what is said ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "text", "reasoning"),
    [
        ([{"type": "text", "text": "Hi"}], "Hi", ""),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}], "", "hm"),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Hi"}], "Hi", "hm"),
        ([{"type": "thinking", "thinking": [None, {"text": 7}, {"text": "hm"}]}], "", "hm"),
        ([{"type": "reference", "reference_ids": [1]}, None, "x", {"type": "text"}, {"text": "x"}], "", ""),
        ([{"type": "image_url", "image_url": "https://example.com"}], "", ""),
        ([], "", ""), ({}, "", ""), (7, "", ""), (None, "", ""), ("Hi", "Hi", ""),
    ],
)  # fmt: skip
async def test_content_may_be_a_list_of_parts(content: object, text: str, reasoning: str) -> None:
    heard = await chat(t(content), t("there."), stop(), DONE)
    assert (heard.text, heard.reasoning, heard.reason) == (f"{text}there.", reasoning, STOP)


@pytest.mark.parametrize(
    "odd",
    [
        "data:\n\n", "data: \n\n", "data: ping\n\n", "data: [PING]\n\n", ": ping\n\n", "event: ping\n\n",
        'event: ping\ndata: {"type": "ping"}\n\n', "data: null\n\n", "data: 7\n\n", "data:"
         " []\n\n", 'data: "hm"\n\n',
        *map(data, (
            {}, {"choices": None}, {"choices": []}, {"choices": [None]}, {"choices": {"delta": "x"}},
            {"choices": "x"}, {"choices": [7, {"delta": None}]}, {"choices": [{"delta": []}]},
            {"choices": [{"delta": {"refusal": False}}]},
             {"choices": [{"delta": {"reasoning": {"text": "x"}}}]},
            {"choices": [{"delta": {"role": "tool", "content": "{}"}}]},
            {"choices": [{"delta": {"content": None, "tool_calls": None}, "finish_reason": 7}]},
            {"choices": [{"finish_reason": None, "content_filter_offsets": {}}]},
            {"choices": [{"message": {"content": "One two"}}]},
            {"usage": None}, {"usage": "many"}, {"usage": [1]}, {"usage": {}},
            {"usage": {"prompt_tokens": None, "completion_tokens": "5", "total_tokens": 5.5}},
            {"usage": {"completion_tokens_details": "none", "prompt_tokens": [7]}},
            {"error": None}, {"error": {}}, {"error": ""}, {"error": False}, {"error": []},
            {"error": {"code": None, "message": ""}}, {"novelty": {"deep": [1]}}, {"message": "a note"},
        )),
    ],
)  # fmt: skip
async def test_what_carries_no_text_is_passed_over(odd: str) -> None:
    for pieces in ((odd, t("One "), t("two"), stop(), DONE), (t("One "), odd, t("two"), stop(), DONE)):
        heard = await chat(*pieces)
        assert (heard.text, heard.reasoning, heard.finish) == ("One two", "", Finish(STOP, "stop"))


@pytest.mark.parametrize(
    "fields",
    [
        {"usage": {"prompt_tokens": None}}, {"usage": "x"}, {"error": {}}, {"error": ""}, {"error": False},
        {"id": 7}, {"object": 7}, {"type": ["x"]},
    ],
)  # fmt: skip
async def test_odd_fields_beside_text_take_none_of_it(fields: dict[str, object]) -> None:
    chunk = {"choices": [{"delta": {"content": "One ", "reasoning": 7}, "finish_reason": None}]} | fields
    heard = await chat(data(chunk), t("two"), stop(), DONE)
    assert (heard.text, heard.finish) == ("One two", Finish(STOP, "stop"))


async def test_half_a_character_waits_for_its_other_half() -> None:
    first, second = "😀".encode()[:2], "😀".encode()[2:]
    one, two = (part.decode("utf-8", "surrogateescape") for part in (first, second))
    heard = await chat(t(f"a{one}"), t(f"{two}b"), t("\udcff"), t(one), stop(), DONE)
    assert (heard.text, heard.reason) == ("a😀b\ufffd\ufffd", STOP)


@pytest.mark.parametrize(
    "broken", ['data: {"choices": [{"del\n\n', "data: {'choices': []}\n\n", "data: <html>\n\n"]
)
async def test_what_is_no_json_ends_a_reply(broken: str) -> None:
    heard = await chat(t("One "), broken, t("two"), stop(), DONE)
    assert (heard.text, heard.reason) == ("One ", "provider_protocol")


async def test_reasoning_in_tags_is_none_of_the_text() -> None:
    heard = await chat(
        t("<thi"), t("nk>\nhm, "), t("well</thi"), t("nk>\n"), t("\nHi "), t("<think>"), stop(), DONE
    )
    assert (heard.text, heard.reasoning) == ("Hi <think>", "\nhm, well")


# -- errors inside a reply -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"object": "error", "message": "Oh", "code": 500}, "provider_unavailable"),
        ({"object": "error", "message": "Oh", "type": "BadRequestError", "code": 400},
         "provider_bad_request"),
        ({"error": {"message": "Oh", "type": "SERVICE_UNAVAILABLE", "code": 503}}, "provider_overloaded"),
        ({"error": {"message": "Oh", "code": "500", "type": None}}, "provider_unavailable"),
        ({"error": "Oh", "error_type": "overloaded"}, "provider_overloaded"),
        ({"error": "Oh"}, "provider_interrupted"),
        ({"detail": "Oh"}, "provider_interrupted"),
        ({"message": "Oh", "code": 429}, "provider_rate_limited"),
        ({"type": "error", "error": {"type": "overloaded_error"}}, "provider_overloaded"),
        ({"choices": [{"delta": {}, "finish_reason": "error", "error": {"code": 429, "message": "Oh"}}]},
         "provider_rate_limited"),
        ({"choices": [{"delta": {"content": ""}, "finish_reason": "error"}], "error": {"code": 429}},
         "provider_rate_limited"),
        ({"choices": [{"delta": {}, "error": {"code": 502}}]}, "provider_unavailable"),
        ([{"error": {"code": 503, "status": "UNAVAILABLE"}}], "provider_overloaded"),
        ({"object": "error", "choices": [], "message": "Oh", "code": 500}, "provider_unavailable"),
        ({"statusCode": 429, "message": "Slow"}, "provider_rate_limited"),
        ({"error": "Model m is currently loading"}, "provider_loading"),
        ({"error": {"code": 429, "message": "context length exceeded"}}, "provider_rate_limited"),
        ({"error": {"code": "context_length_exceeded"}}, "context_too_long"),
    ],
)  # fmt: skip
async def test_an_error_inside_a_reply_is_that_error(body: object, code: str) -> None:
    heard = await chat(t("One "), data(body), stop(), DONE)
    assert (heard.text, heard.reason) == ("One ", code)


async def test_an_error_beside_text_comes_after_it() -> None:
    chunk = {"choices": [{"delta": {"content": "two"}}], "error": {"code": 429}}
    heard = await chat(t("One "), data(chunk), DONE)
    assert (heard.text, heard.reason) == ("One two", "provider_rate_limited")


async def test_an_error_after_a_finish_reason_counts() -> None:
    heard = await chat(t("One "), stop(), data({"error": {"type": "server_error"}}), DONE)
    assert (heard.text, heard.reason) == ("One ", "provider_interrupted")


async def test_an_event_named_error_is_one_whatever_it_says() -> None:
    for said in (
        event("error", oh="no"),
        "event: error\ndata: upstream timed out\n\n",
        "event: error\ndata: []\n\n",
    ):
        heard = await chat(t("One "), said, stop(), DONE)
        assert (heard.text, heard.reason) == ("One ", "provider_interrupted")


# -- the response as a whole -----------------------------------------------------------------------

LABELS = ["text/event-stream", "text/event-stream; charset=utf-8", "application/json", "text/plain", "",
          "text/event-stream, text/event-stream"]  # fmt: skip
WHOLE = {"object": "chat.completion", "choices": [{"message": {"content": "Hi", "reasoning_content": "hm"},
         "finish_reason": "stop"}], "usage": USAGE}  # fmt: skip


@pytest.mark.parametrize("label", LABELS)
async def test_the_first_bytes_say_what_a_response_is(label: str) -> None:
    body = t("One ") + t("two") + stop() + DONE
    for size in (1, 3, 1000):
        pieces = [body[start : start + size] for start in range(0, len(body), size)]
        heard = await chat(*pieces, label=label)
        assert (heard.text, heard.reason) == ("One two", STOP)
    heard = await chat("\ufeff\r\n: hello\n\n", body, label=label)
    assert (heard.text, heard.reason) == ("One two", STOP)
    heard = await chat("  \n", json.dumps(WHOLE), label=label)
    assert (heard.text, heard.reasoning) == ("Hi", "hm")
    assert heard.finish == Finish(STOP, "stop", Usage(7, 9))
    for page in ("<html>Log in</html>", "  <!doctype html>", "Bad gateway\n\n"):
        heard = await chat(page, label=label)
        assert (heard.text, heard.reason) == ("", "provider_protocol")


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize(
    ("body", "code", "retryable"),
    [
        ({"error": {"code": 429, "message": "Slow"}}, "provider_rate_limited", True),
        ([{"error": {"code": 503, "status": "UNAVAILABLE"}}], "provider_overloaded", True),
        ({"object": "error", "message": "Oh", "code": 500}, "provider_unavailable", True),
        ({"detail": "Not here"}, "provider_interrupted", True),
        ({"error": {"code": "invalid_api_key"}}, "provider_auth", False),
        ({"choices": [], "error": {"code": 401}}, "provider_auth", False),
        ({"greeting": "hello"}, "provider_protocol", False),
        ([], "provider_protocol", False),
    ],
)
async def test_an_error_in_place_of_a_stream_is_that_error(
    label: str, body: object, code: str, retryable: bool
) -> None:
    heard = await chat(json.dumps(body), label=label, retry_after="7")
    assert heard.text == ""
    assert heard.fault is not None
    assert (heard.fault.fault, heard.fault.may_retry) == (code, retryable)
    if code == "provider_rate_limited":
        assert heard.fault.retry_after_ms == 7000


async def test_a_whole_completion_in_an_event_is_the_reply_unless_it_was_told_already() -> None:
    heard = await chat(data(WHOLE), DONE)
    assert (heard.text, heard.reason) == ("Hi", STOP)
    heard = await chat(t("H"), t("i"), data(WHOLE), DONE)
    assert (heard.text, heard.reason) == ("Hi", STOP)


async def test_bytes_that_are_no_characters_take_no_more_time_than_others() -> None:
    heard = await chat(t("\udcb0\udca1" * 200_000), t("x"), stop(), DONE)
    assert heard.text == "\ufffd" * 400_000 + "x"


async def test_white_space_before_a_response_takes_no_time() -> None:
    heard = await chat(*["\n" * 1024] * 4096, t("One "), stop(), DONE)
    assert (heard.text, heard.reason) == ("One ", STOP)
    heard = await chat(*[t("\n")] * 20_000, t("x"), stop(), DONE)
    assert heard.text == "\n" * 20_000 + "x"


async def test_half_a_completion_is_no_reply() -> None:
    heard = await chat(json.dumps(WHOLE)[:40])
    assert (heard.text, heard.reason) == ("", "provider_protocol")


# -- counts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        # xAI counts reasoning in the total alone, OpenAI in the completion too.
        ({"prompt_tokens": 10120, "completion_tokens": 1499, "total_tokens": 14428,
          "completion_tokens_details": {"reasoning_tokens": 2809}}, Usage(10120, 4308)),
        ({"prompt_tokens": 100, "completion_tokens": 1970, "total_tokens": 2070,
          "completion_tokens_details": {"reasoning_tokens": 956}}, Usage(100, 1970)),
        ({"prompt_tokens": 100, "completion_tokens": 1970,
         "completion_tokens_details": {"reasoning_tokens": 956}},
         Usage(100, 1970)),
        ({"prompt_tokens": 100, "completion_tokens": 31,
         "completion_tokens_details": {"reasoning_tokens": 736}},
         Usage(100, 767)),
        ({"prompt_tokens": 7, "total_tokens": 16}, Usage(7, 9)),
        ({"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 1012}, Usage(3, 1009)),
        # Portkey counts Anthropic's cached input in the total alone.
        ({"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 130215,
         "cache_read_input_tokens": 128955,
          "cache_creation_input_tokens": 1253}, Usage(130213, 2)),
        ({"prompt_tokens": 0, "completion_tokens": 50, "total_tokens": 105050}, Usage(105000, 50)),
        ({"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": 0}, Usage(7, 9)),
        ({"prompt_tokens": 7, "completion_tokens": 9, "total_tokens": "x"}, Usage(7, 9)),
        # Whoever says that nothing was used does not count.
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, None),
        ({"prompt_tokens": 7, "completion_tokens": 0, "total_tokens": 7}, None),
        ({"prompt_tokens": 7}, None),
        ({"prompt_tokens": 7, "completion_tokens": -9}, None),
        ({"prompt_tokens": 7, "completion_tokens": 5_000_000_000}, None),
        ({"prompt_tokens": 7, "completion_tokens": 5.5}, None),
    ],
)  # fmt: skip
async def test_the_total_decides_what_output_is(counts: dict[str, object], expected: Usage | None) -> None:
    for pieces in (
        (stop(), usage(**counts), DONE),
        (data({"choices": [{"finish_reason": "stop"}], "usage": counts}),),
    ):
        heard = await chat(t("Hi"), *pieces)
        assert heard.finish == Finish(STOP, "stop", expected)


async def test_counts_are_told_as_they_come() -> None:
    def so_far(text: str, output: int) -> str:
        counts = {"prompt_tokens": 7, "completion_tokens": output, "total_tokens": 7 + output}
        return data({"choices": [{"delta": {"content": text}}], "usage": counts})

    heard = await chat(so_far("One ", 1), so_far("two ", 2), ConnectionResetError())
    assert [found for found in heard.events if isinstance(found, Counted)] == [Counted(7, 1), Counted(7, 2)]
