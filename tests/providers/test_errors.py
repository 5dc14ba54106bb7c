"""What providers say of errors, and what it means."""

from typing import Any

import pytest

from parley.domain.errors import ContextTooLong
from parley.providers.context_errors import context_too_long
from parley.providers.errors import fault_of_status, says_something
from parley.providers.server import title_of_server


@pytest.mark.parametrize(
    ("message", "counts"),
    [
        ("This model's maximum context length is 128000 tokens. However, your messages resulted in 130500"
         " tokens.",
         (130500, 128000)),
        ("This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4000 in"
         " the messages,"
         " 1000 in the completion).", (5000, 4096)),
        ("prompt is too long: 219898 tokens > 200000 maximum", (219898, 200000)),
        ("This model's maximum prompt length is 131072 but the request contains 150000"
         " tokens.", (150000, 131072)),
        ("Prompt contains 300000 tokens, too large for model with 131072 maximum context"
         " length", (300000, 131072)),
        ("The input (5000 tokens) is longer than the model's context length (4096 tokens).", (5000, 4096)),
        ("The input token count (1196265) exceeds the maximum number of tokens allowed"
         " (1048575).", (1196265, 1048575)),
        ("request (13392 tokens) exceeds the available context size (8192 tokens), try increasing"
         " it", (13392, 8192)),
        ("Input validation error: `inputs` must have less than 4095 tokens. Given: 5000", (5000, 4095)),
        ("Prompt has 5,958,968 tokens, but the configured context size is 256,000 tokens", (5958968, 256000)),
        # It counts no further than to the bound: nothing is to be computed from it.
        ("This model's maximum context length is 16384 tokens. However, you requested 8192 output tokens and"
         " your prompt"
         " contains at least 8193 input tokens.", (None, None)),
        ("input length and `max_tokens` exceed context limit: 199759 + 8192 > 200000", (None, None)),
        ("Input is too long for requested model.", (None, None)),
        ("invalid params, context window exceeds limit", (None, None)),
        ("litellm.ContextWindowExceededError: litellm.BadRequestError", (None, None)),
        ("Context size has been exceeded.", (None, None)),
    ],
)  # fmt: skip
def test_a_context_that_is_too_long_is_told_in_many_words(
    message: str, counts: tuple[int | None, int | None]
) -> None:
    for body in ({"error": {"message": message}}, {"message": message}, [{"error": {"message": message}}],
                 {"error": message}):  # fmt: skip
        found = fault_of_status("It", 400, {}, body)
        assert isinstance(found, ContextTooLong)
        assert (found.asked_tokens, found.context_tokens) == counts
        assert (found.fault, found.may_retry) == ("context_too_long", False)


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (400, {"code": "context_length_exceeded"}, "context_too_long"),
        (400, {"type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 4}, "context_too_long"),
        (413, {"code": "rate_limit_exceeded", "message": "Request too large on tokens per minute (TPM):"
         " Limit 6000,"
               " Requested 6332, please reduce your message size"}, "provider_rate_limited"),
        (429, {"message": "Too many tokens, please wait before trying again."}, "provider_rate_limited"),
        (400, {"message": "max_tokens is too large: 32768. This model supports at most 16384 completion"
         " tokens"},
         "provider_bad_request"),
        (400, {"message": "Invalid 'user': string too long."}, "provider_bad_request"),
        (503, {"message": "Loading model", "type": "unavailable_error", "code": 503}, "provider_loading"),
        (503, "Model m is currently loading", "provider_loading"),
        (503, {"code": "model_loading"}, "provider_loading"),
        (503, {"message": "Busy"}, "provider_overloaded"),
        (500, {"message": "The model is still loading"}, "provider_loading"),
        (429, {"message": "The model is not ready for inference"}, "provider_loading"),
        (400, {"message": "You asked: is it still loading?"}, "provider_bad_request"),
        (400, {"code": "invalid-argument", "message": "Incorrect API key provided"}, "provider_auth"),
        (400, {"message": "'max_tokens' is too large: 8192. This model's maximum context length is 8192"
         " tokens and"
               " your request has 50 input tokens"}, "provider_bad_request"),
        (400, {"message": "max_tokens (9000) exceeds the model's context length"}, "provider_bad_request"),
        (400, {"message": "Input Tokens Exceeded: Number of input tokens exceeds maximum"
         " length"}, "context_too_long"),
        (413, {"code": "tokens_limit_reached", "message": "Request body too large"}, "context_too_long"),
        (400, {"message": "Provider returned"
         " error", "metadata": {"raw": '{"code":"context_length_exceeded"}'}},
         "context_too_long"),
        (500, None, "provider_unavailable"),
        (401, {"type": "invalid_request_error"}, "provider_auth"),
    ],
)  # fmt: skip
def test_a_status_and_what_is_said_beside_it_make_a_fault(status: int, error: Any, code: str) -> None:
    assert fault_of_status("It", status, {}, {"error": error}).fault == code
    if isinstance(error, dict):
        # OpenAI's SDK passes on the error without what it came in.
        assert fault_of_status("It", status, {}, error).fault == code


@pytest.mark.parametrize(("status", "may_repeat"), [(500, True), (503, True), (504, False), (524, False)])
def test_a_server_that_has_the_question_and_is_slow_is_not_asked_again(status: int, may_repeat: bool) -> None:
    found = fault_of_status("It", status, {}, None)
    assert (found.may_retry, found.may_repeat) == (True, may_repeat)


@pytest.mark.parametrize(
    "text", ["9" * 100_000, "max_tokens " * 10_000, "prompt " * 20_000, "input (" * 20_000]
)
def test_a_long_error_takes_no_time(text: str) -> None:
    assert fault_of_status("It", 400, {}, {"error": {"message": text}}).fault == "provider_bad_request"


@pytest.mark.parametrize("after", ["Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "soon", "1e999", ""])
def test_a_time_that_makes_no_sense_is_none(after: str) -> None:
    assert fault_of_status("It", 429, {"retry-after": after}, None).retry_after_ms is None


def test_llama_cpp_s_numbers_are_in_fields() -> None:
    body = {"error": {"type": "exceed_context_size_error", "n_prompt_tokens": 9000, "n_ctx": 4096}}
    found = context_too_long(["exceed_context_size_error"], "", body)
    assert found is not None
    assert (found.asked_tokens, found.context_tokens) == (9000, 4096)


@pytest.mark.parametrize(
    "error", [None, {}, "", " ", False, 0, [], {"code": None, "message": ""}, {"a": {"b": []}}]
)
def test_an_error_may_say_nothing(error: object) -> None:
    assert not says_something(error)


@pytest.mark.parametrize("error", ["Oh", True, 500, {"code": 500}, {"a": {"b": ["x"]}}, ["x"]])
def test_an_error_may_be_anything(error: object) -> None:
    assert says_something(error)


@pytest.mark.parametrize(
    ("url", "title"),
    [
        ("https://api.openai.com/v1", "OpenAI"), ("https://api.anthropic.com", "Anthropic"),
        ("https://api.x.ai/v1", "xAI"), ("https://me.openai.azure.com/openai/v1", "Azure OpenAI"),
        ("http://127.0.0.1:8080/v1", "the model's server"), ("https://openai.com.evil.example/v1", "the"
         " model's server"),
        ("", "the model's server"),
    ],
)  # fmt: skip
def test_errors_name_the_owner_of_a_server(url: str, title: str) -> None:
    assert title_of_server(url) == title
