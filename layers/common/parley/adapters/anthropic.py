"""Anthropic's messages."""

from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any

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
    import anthropic
    import httpx2

_TITLE = "Anthropic"

# Any other word means that the model would go on (`pause_turn`, `tool_use`), which must not pass for an end.
_FINISH = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "refusal": FinishReason.CONTENT_FILTER,
}

# What an error calls itself, where that says more than the status; in a stream there is no status.
_CODES = {
    "authentication_error": "provider_auth",
    "permission_error": "provider_auth",
    "billing_error": "provider_quota",
    "rate_limit_error": "provider_rate_limited",
    "overloaded_error": "provider_overloaded",
    "not_found_error": "provider_bad_request",
    "request_too_large": "provider_bad_request",
}


class AnthropicModel:
    """Asks Anthropic by its SDK's client, and reads the answer's bytes itself.

    The SDK's own stream objects pass a cut reply off as a whole one, and cost several times the work.
    """

    version = "anthropic/1"

    def __init__(self, *, api_key: str, base_url: str) -> None:
        self._api_key = api_key
        self._base_url = base_url
        self._sdk = Sdk(self._make_client)

    def stream(self, question: Question) -> AsyncGenerator[ModelEvent, None]:
        """Ask once; see `ports.ChatModel.stream`."""

        async def open_response() -> Opened:
            return await self._sdk.post("/v1/messages", _body(question))

        return stream(_TITLE, _Events(), open_response, _fault_of)

    async def close(self) -> None:
        """Close idle connections."""
        await self._sdk.close()

    def _make_client(self, http_client: "httpx2.AsyncClient") -> "anthropic.AsyncAnthropic":
        import anthropic  # noqa: PLC0415

        return anthropic.AsyncAnthropic(
            api_key=self._api_key,
            base_url=self._base_url,
            max_retries=0,
            timeout=None,
            http_client=http_client,
            open_telemetry=False,  # its spans may hold prompts and replies
        )


def _body(question: Question) -> dict[str, object]:
    model = question.model
    body: dict[str, object] = {
        **model.parameters,
        "model": model.name,
        "max_tokens": model.max_output_tokens,
        "messages": [{"role": turn.role.value, "content": turn.text} for turn in question.turns],
        "stream": True,
    }
    if model.system_prompt:
        body["system"] = model.system_prompt
    return body


def _fault_of(error: Exception) -> ProviderFault | None:
    found = refusal(error)
    if found is None:
        return None
    inner = found.body.get("error") if isinstance(found.body, dict) else None
    return fault_of_status(_TITLE, found.status, found.headers, _words(inner), _CODES)


def _words(error: object) -> list[str]:
    kind = error.get("type") if isinstance(error, dict) else None
    return [kind] if isinstance(kind, str) else []


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _Message(msgspec.Struct):
    usage: _Usage | None = None


class _Delta(msgspec.Struct):
    text: str | None = None
    thinking: str | None = None
    stop_reason: str | None = None


class _Event(msgspec.Struct):
    type: str
    message: _Message | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: Any = None


_event = Chunk(_Event)


class _Events:
    """Reads message events up to `message_stop`, without which a reply was cut off."""

    __slots__ = ("_over", "_reason", "_usage")

    def __init__(self) -> None:
        self._over = False
        self._reason: str | None = None
        self._usage = _Usage()

    def take(self, events: Sequence[ServerEvent], lump: Lump) -> bool:
        """Read events up to the last; one of an unknown type means nothing."""
        for event in events:
            body = _event.decode(event.data)
            match body.type:
                case "content_block_delta" if body.delta is not None:
                    if body.delta.text:
                        lump.text.append(body.delta.text)
                    if body.delta.thinking:
                        lump.reasoning.append(body.delta.thinking)
                case "message_start" if body.message is not None:
                    self._count(body.message.usage)
                    # The reply has just begun: a later event counts what it came to.
                    self._usage.output_tokens = None
                case "message_delta":
                    self._count(body.usage)
                    if body.delta is not None and body.delta.stop_reason:
                        self._reason = body.delta.stop_reason
                case "message_stop":
                    self._over = True
                    break
                case "error":
                    raise fault_of_event(_TITLE, _words(body.error), _CODES)
        return self._over

    def finish(self) -> Finish | None:
        """Return the end, once `message_stop` came after a stop reason."""
        if self._reason is None or not self._over:
            return None
        reason = _FINISH.get(self._reason, FinishReason.TRUNCATED)
        return Finish(reason, own_word(self._reason), _total(self._usage))

    def _count(self, usage: _Usage | None) -> None:
        """Take over what is known by now: the counts are cumulative, and some come once only."""
        if usage is not None:
            known = {
                name: count for name, count in msgspec.structs.asdict(usage).items() if count is not None
            }
            self._usage = msgspec.structs.replace(self._usage, **known)


def _total(usage: _Usage) -> Usage | None:
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    cached = (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)
    return Usage(usage.input_tokens + cached, usage.output_tokens)
