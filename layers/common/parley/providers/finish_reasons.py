"""The finish reasons of providers, gateways and model servers, and their meanings.

Servers with the same API use different words, because gateways pass on the provider's own. Words are
compared in lower case, without `-` and `_`.
"""

from parley.domain.events import FinishReason

_STOP, _LENGTH, _FILTER = FinishReason.STOP, FinishReason.LENGTH, FinishReason.CONTENT_FILTER

_MEANINGS = {
    "stop": _STOP,  # OpenAI, and nearly all; Gemini's `STOP`
    "eos": _STOP,  # Together
    "eostoken": _STOP,  # TGI, watsonx
    "endturn": _STOP,  # Anthropic, Bedrock, Snowflake
    "stopsequence": _STOP,  # Anthropic, Bedrock, Cohere, watsonx, TGI
    "complete": _STOP,  # Cohere
    "completed": _STOP,  # the status of OpenAI's Responses, passed on by gateways
    "end": _STOP,  # gateways
    "finished": _STOP,  # Titan on Bedrock
    "stopcriteriamet": _STOP,  # Titan on Bedrock
    "length": _LENGTH,  # OpenAI, and nearly all; Titan
    "maxtokens": _LENGTH,  # Anthropic, Bedrock, watsonx, Gemini, Cohere
    "maxoutputtokens": _LENGTH,  # OpenAI's Responses, passed on by gateways
    "modellength": _LENGTH,  # Mistral
    "modelcontextwindowexceeded": _LENGTH,  # Anthropic, Bedrock, Z.ai
    "tokenlimit": _LENGTH,  # watsonx
    "continuation": _LENGTH,  # Gemini
    "contentfilter": _FILTER,  # OpenAI, Azure, DeepSeek, Moonshot, xAI
    "contentfiltered": _FILTER,  # Bedrock, Titan
    "guardrailintervened": _FILTER,  # Bedrock
    "refusal": _FILTER,  # Anthropic
    "sensitive": _FILTER,  # Z.ai, on both APIs
    "errortoxic": _FILTER,  # Cohere
    "safety": _FILTER,  # Gemini, like all below
    "recitation": _FILTER,
    "language": _FILTER,
    "blocklist": _FILTER,
    "prohibitedcontent": _FILTER,
    "spii": _FILTER,
    "imagesafety": _FILTER,
    "modelarmor": _FILTER,
}

# Some servers write these into chunks before the last: `"null"` DashScope, `not_finished` watsonx,
# `FINISH_REASON_UNSPECIFIED` Gemini.
_NOT_YET = {"", "null", "none", "notfinished", "finishreasonunspecified"}

_ERRORS = {
    "error",  # Mistral, OpenRouter, Cohere, watsonx, lmdeploy, koboldcpp
    "abort",  # vLLM, SGLang, lmdeploy
    "aborted",
    "cancelled",  # watsonx
    "timeout",  # Cohere
    "failed",
    "insufficientsystemresource",  # DeepSeek
}


def is_finish_reason(word: str | None) -> bool:
    """Return whether a chunk with this word ends the reply."""
    return word is not None and _plain(word) not in _NOT_YET


def is_error(word: str) -> bool:
    """Return whether a finish reason reports an error.

    It does if `_ERRORS` has it, or if it ends with `error` and has no meaning in `_MEANINGS`.

    Portkey passes on Anthropic's `overloaded_error`, and Z.ai sends `network_error`.
    """
    plain = _plain(word)
    return plain in _ERRORS or (plain.endswith("error") and plain not in _MEANINGS)


def meaning_of(word: str) -> FinishReason:
    """Return the meaning of a finish reason.

    An unknown word means that the model would go on, for example after a tool call. So the reply counts as
    truncated.
    """
    return _MEANINGS.get(_plain(word), FinishReason.TRUNCATED)


def _plain(word: str) -> str:
    return word.strip().lower().replace("_", "").replace("-", "")
