"""OpenAI, and every server that speaks its chat completions."""

from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from parley.adapters.body import Opened
from parley.adapters.faults import fault_of_event, fault_of_status
from parley.adapters.sdk import Sdk, own_word, refusal
from parley.adapters.streaming import Chunk, Lump, stream
from parley.errors import ProviderFault
from parley.events import Finish, FinishReason, ModelEvent, Usage
from parley.ports import Question
from parley.sse import ServerEvent

if TYPE_CHECKING:
    import httpx2
    import openai

# Any other word means that the model would go on (a tool call, say), which must not pass for an end.
_FINISH = {
    "stop": FinishReason.STOP,
    "eos": FinishReason.STOP,
    "eos_token": FinishReason.STOP,
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
}

# What an error calls itself in `code` or `type`, where that says more than the status.
_CODES = {
    "insufficient_quota": "provider_quota",
    "billing_not_active": "provider_quota",
    "billing_hard_limit_reached": "provider_quota",
    "rate_limit_exceeded": "provider_rate_limited",
    "requests": "provider_rate_limited",
    "tokens": "provider_rate_limited",
    "invalid_api_key": "provider_auth",
    "authentication_error": "provider_auth",
    "context_length_exceeded": "provider_bad_request",
    "overloaded": "provider_overloaded",
    "overloaded_error": "provider_overloaded",
}

# Hosts that call the limit by its newer name; compatible servers mostly know the older one only.
_NEW_LIMIT_HOSTS = ("openai.com", "openai.azure.com", "x.ai")


class OpenAIModel:
    """Asks OpenAI by its SDK's client, and reads the answer's bytes itself.

    The SDK's own stream objects pass a cut reply off as a whole one, and cost several times the work.
    """

    version = "openai/1"

    def __init__(self, *, api_key: str, base_url: str, title: str = "OpenAI") -> None:
        self._api_key = api_key
        self._base_url = base_url
        self._title = title
        host = urlsplit(base_url).hostname or ""
        new = any(host == known or host.endswith(f".{known}") for known in _NEW_LIMIT_HOSTS)
        self._limit = "max_completion_tokens" if new else "max_tokens"
        self._sdk = Sdk(self._make_client)

    def stream(self, question: Question) -> AsyncGenerator[ModelEvent, None]:
        """Ask once; see `ports.ChatModel.stream`."""

        async def open_response() -> Opened:
            return await self._sdk.post("/chat/completions", self._body(question))

        return stream(self._title, _Completion(self._title), open_response, self._fault_of)

    async def close(self) -> None:
        """Close idle connections."""
        await self._sdk.close()

    def _make_client(self, http_client: "httpx2.AsyncClient") -> "openai.AsyncOpenAI":
        import openai  # noqa: PLC0415

        return openai.AsyncOpenAI(
            api_key=self._api_key or "none",  # a compatible server may need no key, the SDK does
            base_url=self._base_url,
            max_retries=0,
            timeout=None,
            http_client=http_client,
        )

    def _body(self, question: Question) -> dict[str, object]:
        model = question.model
        messages = [{"role": "system", "content": model.system_prompt}] if model.system_prompt else []
        messages += [{"role": turn.role.value, "content": turn.text} for turn in question.turns]
        return {
            self._limit: model.max_output_tokens,
            **model.parameters,
            "model": model.name,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def _fault_of(self, error: Exception) -> ProviderFault | None:
        found = refusal(error)
        if found is None:
            return None
        # The SDK passes on the error alone, without what it came in.
        inner = found.body.get("error", found.body) if isinstance(found.body, dict) else None
        return fault_of_status(self._title, found.status, found.headers, _words(inner), _CODES)


_DONE = b"[DONE]"


class _Delta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_chunk = Chunk(_Chunk)


class _Completion:
    """Reads chat completion chunks up to `[DONE]`.

    The finish reason makes the end: the usage comes after it, alone, and not from every server.
    """

    __slots__ = ("_reason", "_refused", "_title", "_usage")

    def __init__(self, title: str) -> None:
        self._title = title
        self._reason: str | None = None
        self._refused = False
        self._usage: _Usage | None = None

    def take(self, events: Sequence[ServerEvent], lump: Lump) -> bool:
        """Read chunks up to the marker."""
        for event in events:
            if event.data == _DONE:
                return True
            chunk = _chunk.decode(event.data)
            if chunk.error is not None:
                raise fault_of_event(self._title, _words(chunk.error), _CODES)
            if chunk.usage is not None:
                self._usage = chunk.usage
            for choice in chunk.choices or ():
                delta = choice.delta
                if delta is not None:
                    if delta.content:
                        lump.text.append(delta.content)
                    if delta.refusal:
                        self._refused = True
                        lump.text.append(delta.refusal)
                    if thought := delta.reasoning_content or delta.reasoning:
                        lump.reasoning.append(thought)
                if choice.finish_reason:
                    self._reason = choice.finish_reason
        return False

    def finish(self) -> Finish | None:
        """Return the end, once a finish reason came."""
        if self._reason is None:
            return None
        known = self._usage
        usage = None if known is None else Usage(known.prompt_tokens, known.completion_tokens)
        if self._refused:
            return Finish(FinishReason.CONTENT_FILTER, "refusal", usage)
        return Finish(_FINISH.get(self._reason, FinishReason.TRUNCATED), own_word(self._reason), usage)


def _words(error: object) -> list[str]:
    values = (error.get("code"), error.get("type")) if isinstance(error, dict) else ()
    return [str(value) for value in values if isinstance(value, str | int)]
