"""Encodes a stream's frames as Server-Sent Events (HTML standard, section 9.2)."""

from parley.domain.conversation import LeftOut
from parley.domain.events import Completed, Cursor, Failed, Source, StreamState, Usage
from parley.support.encoding import to_json

HEARTBEAT = b": heartbeat\n\n"
# The most code points in one token frame, so that it stays below 32 KiB: JSON takes 6 bytes for one at most.
# Clients have bounds: aiohttp's reader takes lines of 128 KiB (512 KiB from 3.14 on).
_MOST_CHARACTERS = 5_000
# Ends of lines for `str.splitlines`, and so for clients that read by it, such as `iter_lines` of httpx. JSON
# escapes all others by itself.
_SEPARATORS = ((b"\xc2\x85", b"\\u0085"), (b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"))


def start_frame(
    cursor: Cursor,
    *,
    session_id: str,
    chat_id: str,
    message_id: str,
    model_id: str,
    source: Source,
    left_out: LeftOut | None = None,
) -> bytes:
    """Return the first frame of a stream. Its id tells EventSource the epoch of the reply."""
    body: dict[str, object] = {
        "type": "start",
        "sessionId": session_id,
        "chatId": chat_id,
        "messageId": message_id,
        "modelId": model_id,
        "source": source.value,
    }
    if left_out is not None:
        body |= _left_out_json(left_out)
    return _frame(body, cursor)


def _left_out_json(left_out: LeftOut) -> dict[str, object]:
    return {"leftOut": left_out.messages, "contextFrom": left_out.first_sent}


TYPING = b'data: {"type":"typing"}\n\n'


def token_frames(epoch: int, position: int, content: str) -> bytes:
    """Return the frames that bring a reader to `position`, in code points; one, unless `content` is long."""
    if len(content) <= _MOST_CHARACTERS:
        return _token_frame(epoch, position, content)
    begin = position - len(content)
    pieces = []
    for start in range(0, len(content), _MOST_CHARACTERS):
        piece = content[start : start + _MOST_CHARACTERS]
        pieces.append(_token_frame(epoch, begin + start + len(piece), piece))
    return b"".join(pieces)


def _token_frame(epoch: int, position: int, content: str) -> bytes:
    # Built by hand: the hot path.
    data = to_json(content)
    if not content.isascii():
        data = _on_one_line(data)
    return b'id: %d-%d\ndata: {"type":"token","content":%b}\n\n' % (epoch, position, data)


def _on_one_line(data: bytes) -> bytes:
    """Escape what clients may take for the end of a line. In UTF-8 no other character has these bytes."""
    for separator, escaped in _SEPARATORS:
        data = data.replace(separator, escaped)
    return data


def status_frame(state: StreamState) -> bytes:
    """Return the frame that tells a state while there is no text."""
    return _frame({"type": "status", "state": state.value})


def shortened_frame(left_out: LeftOut) -> bytes:
    """Return the frame that tells what is left out since the provider refused the question as too long."""
    return _frame({"type": "status", "state": StreamState.SHORTENED.value} | _left_out_json(left_out))


def thinking_frame(elapsed_ms: int) -> bytes:
    """Return a heartbeat for a reply without text, after `elapsed_ms` milliseconds of thinking."""
    return _frame({"type": "status", "state": StreamState.THINKING.value, "elapsedMs": elapsed_ms})


def reset_frame(cursor: Cursor, reason: str) -> bytes:
    """Return the frame that makes a client drop the text shown so far."""
    return _frame({"type": "reset", "reason": reason}, cursor)


def done_frame(end: Completed, *, message_id: str, saved: bool) -> bytes:
    """Return the frame that ends a stream successfully; no other frame does."""
    return _frame(
        {
            "type": "done",
            "finishReason": end.finish_reason.value,
            "usage": usage_json(end.usage),
            "messageId": message_id,
            "saved": saved,
        }
    )


def error_frame(end: Failed, *, saved: bool) -> bytes:
    """Return the frame that ends a stream with an error; no other frame does."""
    body: dict[str, object] = {
        "type": "error",
        "code": end.code,
        "message": end.message,
        "retryable": end.retryable,
    }
    if end.retry_after_ms is not None:
        body["retryAfterMs"] = end.retry_after_ms
    body["saved"] = saved
    return _frame(body)


def usage_json(usage: Usage | None) -> dict[str, int] | None:
    """Return usage with the protocol's field names (docs/protocol.md)."""
    if usage is None:
        return None
    return {
        "inputTokens": usage.input_tokens,
        "outputTokens": usage.output_tokens,
        "totalTokens": usage.input_tokens + usage.output_tokens,
    }


def _frame(body: dict[str, object], cursor: Cursor | None = None) -> bytes:
    prefix = b"" if cursor is None else b"id: %d-%d\n" % cursor
    return b"%bdata: %b\n\n" % (prefix, _on_one_line(to_json(body)))
