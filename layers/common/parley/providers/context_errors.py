"""Recognizes errors about requests that are longer than the model's context."""

import re
from collections.abc import Collection
from typing import Any

from parley.domain.errors import ContextTooLong

# Codes and types of such errors, in lower case. Few servers send one, so the message is searched too.
_WORDS = {
    "context_length_exceeded",  # OpenAI, Azure, Groq
    "context_window_exceeded",
    "model_context_window_exceeded",  # Z.ai
    "contextwindowexceedederror",  # LiteLLM
    "exceed_context_size_error",  # llama.cpp, with `n_prompt_tokens` and `n_ctx` beside it
    "invalid_request_prompt_too_long",  # Mistral
    "input_too_long",
    "tokens_limit_reached",  # GitHub Models
}

_MESSAGE = re.compile(
    "|".join(
        (
            # OpenAI, vLLM, SGLang, DeepSeek, OpenRouter, Mistral, xAI
            r"maximum (?:context|prompt|model|allowed input|input) length",
            r"(?:longer|larger|greater|smaller) than the (?:model'?s? )?(?:max(?:imum)? )?"
            r"(?:context|model) (?:length|size)",
            r"input tokens exceed the",
            r"reduce the length of (?:the|your) (?:messages|input|prompt)",
            r"exceed(?:s|ed|ing)?\b.{0,40}\bcontext (?:length|window|size|limit)",
            r"context[ _-]?(?:length|window|size)\b.{0,20}\bexceed",
            r"contextwindowexceeded|context_length_exceeded|context_window_exceeded",
            # Anthropic, Z.ai, Bedrock, Replicate
            r"(?:prompt|input) (?:is )?too long",
            # Gemini, Copilot
            r"input token count.{0,40}exceeds the maximum",
            r"token count of [\d,]+ exceeds the limit",
            r"input tokens exceeded|tokens exceeds? maximum length",
            # Moonshot, DashScope, Cerebras, TGI, Cohere, AI21
            r"exceeded model token limit",
            r"range of input length should be",
            r"current length is \d+ while limit is",
            r"`inputs` (?:tokens \+|must have less than)",
            r"too many tokens: (?:total number|size limit)",
            r"tokens in request more than max tokens allowed",
            r"total length of all messages is too long",
            r"request body too large for .{0,60}max size: \d+ tokens",
            r"prompt 超长",
            r"prompt has (?:too many|[\d,]+) tokens",
            # LM Studio
            r"context the overflows",
        )
    ),
    re.IGNORECASE | re.DOTALL,
)
# An output limit above the whole context is an error in the model's settings.
_OUTPUT_LIMIT = re.compile(r"\W*max_(?:completion_|output_|new_)?tokens\b", re.IGNORECASE)
# Groq's and Bedrock's words for a rate limit in tokens.
_RATE = re.compile(r"tokens per minute|rate limit|throttl|please wait", re.IGNORECASE)

# Messages that contain both numbers. vLLM's "at least N input tokens" is not the request's length, so it is
# not here.
_ASKED, _LIMIT = r"(?P<asked>\d[\d,]*)", r"(?P<limit>\d[\d,]*)"
_NUMBERS = [
    re.compile(wording, re.IGNORECASE | re.DOTALL)
    for wording in (
        rf"{_ASKED} tokens > {_LIMIT} maximum",
        rf"prompt {_ASKED} > {_LIMIT} maximum",
        rf"maximum (?:context|prompt) length (?:is|of) {_LIMIT}\b.{{0,60}}?"
        rf"(?:requested(?: about| a total of)?|resulted in|contains|request has) {_ASKED}(?! output) ",
        rf"limit of {_LIMIT} tokens\. your messages resulted in {_ASKED} ",
        rf"contains {_ASKED} tokens, too large for model with {_LIMIT} ",
        rf"input \({_ASKED} tokens\) is longer than the model's context length \({_LIMIT} ",
        rf"input length \(?{_ASKED}\)? (?:exceeds|must be smaller than) .{{0,40}}?length\D{{1,6}}{_LIMIT}",
        rf"token count (?:\(|of ){_ASKED}\)? exceeds .{{0,50}}?{_LIMIT}",
        rf"token limit: {_LIMIT} \(requested: {_ASKED}\)",
        rf"request \({_ASKED} tokens\) exceeds the available context size \({_LIMIT} ",
        rf"current length is {_ASKED} while limit is {_LIMIT}",
        rf"must (?:be <=|have less than) {_LIMIT}\D.{{0,10}}?given: {_ASKED}",
        rf"cannot exceed {_LIMIT} - received {_ASKED}",
        rf"prompt has {_ASKED} tokens, but the configured context size is {_LIMIT}",
    )
]


def context_too_long(words: Collection[str], message: str, body: object) -> ContextTooLong | None:
    """Return the error's numbers of tokens, or None if the error is not about the context's length.

    `words` are the error's codes and types, in lower case. `body` is its JSON, whose fields may have numbers.
    """
    if _OUTPUT_LIMIT.match(message):
        return None
    if not _WORDS & set(words) and (not _MESSAGE.search(message) or _RATE.search(message)):
        return None
    fields = _fields(body)
    asked, limit = _count(fields.get("n_prompt_tokens")), _count(fields.get("n_ctx"))
    found = next((match for wording in _NUMBERS if (match := wording.search(message))), None)
    if found is not None and not (asked and limit):
        asked, limit = _number(found["asked"]), _number(found["limit"])
    return ContextTooLong(asked, limit) if asked and limit and asked > limit else ContextTooLong()


def _fields(body: object) -> dict[Any, Any]:
    if not isinstance(body, dict):
        return {}
    inner = body.get("error")
    return inner if isinstance(inner, dict) else body


def _count(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None


def _number(text: str) -> int | None:
    return int(text.replace(",", "")) if len(text) < 16 else None
