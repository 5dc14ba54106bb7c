"""Frames a reply as OpenAI or Anthropic does: one class for each API, one object for each reply."""

import json
from typing import Protocol

from local.fake_provider.script import Script

_OPENAI_KINDS = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("permission_error", None),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
}
_ANTHROPIC_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_ANTHROPIC_FINISH = {
    "stop": "end_turn",
    "length": "max_tokens",
    "content_filter": "refusal",
    "tool_calls": "tool_use",
}


def error_body(wire: str, status: int, script: Script) -> bytes:
    """Return the body of an HTTP error in the API's format."""
    if wire == "anthropic":
        kind = script.error_type or _ANTHROPIC_KINDS.get(status, "api_error")
        return _json(
            {
                "type": "error",
                "error": {"type": kind, "message": script.error_message},
                "request_id": "req_fake",
            }
        )
    kind, code = _OPENAI_KINDS.get(status, ("server_error", None))
    kind, code = (script.error_type, script.error_type) if script.error_type else (kind, code)
    return _json({"error": {"message": script.error_message, "type": kind, "param": None, "code": code}})


class ReplyFramer(Protocol):
    """Frames one reply. Each method returns payload bytes with LF line ends."""

    def opening(self) -> bytes: ...
    def reasoning(self, text: str) -> bytes: ...
    def token(self, text: str) -> bytes: ...
    def ping(self) -> bytes: ...
    def unknown(self) -> bytes: ...
    def closing(self, output_tokens: int) -> bytes: ...
    def marker(self) -> bytes: ...
    def error(self) -> bytes: ...
    def mistyped(self) -> bytes: ...


class OpenAIWire:
    """Chat completion chunks: the finish reason, then a chunk with the usage only, then `[DONE]`."""

    def __init__(self, script: Script, model: str, input_tokens: int) -> None:
        self._script = script
        self._input_tokens = input_tokens
        self._base = (
            b'data: {"id":"chatcmpl-fake","object":"chat.completion.chunk","created":1700000000,"model":%b,'
            % _json(model)
        )

    def _delta(self, name: bytes, text: str) -> bytes:
        return (
            self._base
            + b'"choices":[{"index":0,"delta":{"%b":%b},"finish_reason":null}],"usage":null}\n\n'
            % (
                name,
                _json(text, escape=self._script.escape_unicode),
            )
        )

    def opening(self) -> bytes:
        return (
            self._base + b'"choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},'
            b'"finish_reason":null}],"usage":null}\n\n'
        )

    def reasoning(self, text: str) -> bytes:
        return self._delta(b"reasoning_content", text)

    def token(self, text: str) -> bytes:
        return self._delta(b"refusal" if self._script.refusal else b"content", text)

    def ping(self) -> bytes:
        return b": keep-alive\n\n"

    def unknown(self) -> bytes:
        return b"event: novelty\n" + self._base + b'"choices":[],"novelty":{"deep":[1,2,3]}}\n\n'

    def closing(self, output_tokens: int) -> bytes:
        usage = b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (
            self._input_tokens,
            output_tokens,
            self._input_tokens + output_tokens,
        )
        finish = self._base + b'"choices":[{"index":0,"delta":{},"finish_reason":%b}],"usage":%b}\n\n' % (
            _json(self._script.finish),
            usage if self._script.usage == "with" else b"null",
        )
        return finish + (
            self._base + b'"choices":[],"usage":%b}\n\n' % usage if self._script.usage == "after" else b""
        )

    def marker(self) -> bytes:
        return b"data: [DONE]\n\n"

    def error(self) -> bytes:
        return b"data: %b\n\n" % error_body("openai", 500, self._script)

    def mistyped(self) -> bytes:
        return self._base + b'"choices":{"delta":"not a list"}}\n\n'


class AnthropicWire:
    """Named events around content blocks. `message_delta` and `message_stop` end them."""

    def __init__(self, script: Script, model: str, input_tokens: int) -> None:
        self._script = script
        self._model = model
        self._input_tokens = input_tokens
        self._thinking = False
        self._text_index: int | None = None

    def _delta(self, index: int, kind: bytes, name: bytes, text: str) -> bytes:
        return (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
            b'"delta":{"type":"%b","%b":%b}}\n\n'
        ) % (index, kind, name, _json(text, escape=self._script.escape_unicode))

    def _block(self, index: int, block: dict[str, str]) -> bytes:
        return _event("content_block_start", {"index": index, "content_block": block})

    def opening(self) -> bytes:
        usage = {"input_tokens": self._input_tokens, "output_tokens": 1, "cache_read_input_tokens": 0}
        message: dict[str, object] = {
            "id": "msg_fake",
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }
        return _event("message_start", {"message": message}) + self.ping()

    def reasoning(self, text: str) -> bytes:
        opening = (
            b"" if self._thinking else self._block(0, {"type": "thinking", "thinking": "", "signature": ""})
        )
        self._thinking = True
        return opening + self._delta(0, b"thinking_delta", b"thinking", text)

    def token(self, text: str) -> bytes:
        opening = b""
        if self._text_index is None:
            self._text_index = 1 if self._thinking else 0
            if self._thinking:
                opening = self._delta(0, b"signature_delta", b"signature", "c2lnbmF0dXJl")
                opening += _event("content_block_stop", {"index": 0})
            opening += self._block(self._text_index, {"type": "text", "text": ""})
        return opening + self._delta(self._text_index, b"text_delta", b"text", text)

    def ping(self) -> bytes:
        return b'event: ping\ndata: {"type": "ping"}\n\n'

    def unknown(self) -> bytes:
        return _event("novelty", {"deep": [1, 2, 3]}) + _event(
            "content_block_delta", {"index": 0, "delta": {"type": "novelty_delta", "novelty": "!"}}
        )

    def closing(self, output_tokens: int) -> bytes:
        reason = "refusal" if self._script.refusal else self._script.finish
        reason = _ANTHROPIC_FINISH.get(reason, reason)
        body: dict[str, object] = {"delta": {"stop_reason": reason, "stop_sequence": None}}
        if self._script.usage != "none":
            body["usage"] = {"output_tokens": output_tokens}
        stop = b"" if self._text_index is None else _event("content_block_stop", {"index": self._text_index})
        return stop + _event("message_delta", body)

    def marker(self) -> bytes:
        return _event("message_stop", {})

    def error(self) -> bytes:
        return b"event: error\ndata: %b\n\n" % error_body("anthropic", 529, self._script)

    def mistyped(self) -> bytes:
        return _event("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": 7}})


def _event(name: str, body: dict[str, object]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _json({"type": name, **body}))


def _json(value: object, *, escape: bool = False) -> bytes:
    return json.dumps(value, ensure_ascii=escape, separators=(",", ":")).encode()
