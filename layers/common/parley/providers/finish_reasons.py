"""What providers, gateways and model servers call the end of a reply, and what each word means.

Servers of the same wire use words of their own: a gateway passes on what its provider said. Words are
compared in lower case, without regard to `-` and `_`.
"""

from parley.domain.events import FinishReason

_STOP, _LENGTH, _FILTER = FinishReason.STOP, FinishReason.LENGTH, FinishReason.CONTENT_FILTER

_MEANINGS = {
    "stop": _STOP,  # OpenAI, and nearly all; Gemini's `STOP`
    "eos": _STOP,  # Together
    "eostoken": _STOP,  # TGI, watsonx
    "endturn": _STOP,  # Anthropic, Bedrock, Snowflake
    "stopsequence": _STOP,  # Anthropic, Bedrock, Cohere, watsonx; TGI passes it on as it is
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
    "sensitive": _FILTER,  # Z.ai, on both wires
    "errortoxic": _FILTER,  # Cohere
    "safety": _FILTER,  # Gemini, as all below
    "recitation": _FILTER,
    "language": _FILTER,
    "blocklist": _FILTER,
    "prohibitedcontent": _FILTER,
    "spii": _FILTER,
    "imagesafety": _FILTER,
    "modelarmor": _FILTER,
}

# Written into chunks that are not the last one: DashScope's `"null"`, watsonx's `not_finished`, Gemini's.
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
    """Tell whether a chunk with this word says that the reply ends."""
    return word is not None and _plain(word) not in _NOT_YET


def is_error(word: str) -> bool:
    """Tell whether a finish reason reports a fault: `error`, or a name that ends so.

    Portkey passes Anthropic's `overloaded_error` on, Z.ai writes `network_error`.
    """
    plain = _plain(word)
    return plain in _ERRORS or (plain.endswith("error") and plain not in _MEANINGS)


def meaning_of(word: str) -> FinishReason:
    """Return what a finish reason means.

    Any unknown word means that the model would go on (a tool call, say), which must not pass for an end.
    """
    return _MEANINGS.get(_plain(word), FinishReason.TRUNCATED)


def _plain(word: str) -> str:
    return word.strip().lower().replace("_", "").replace("-", "")
