"""Encodes replies and ends for the log, with their MACs, and decodes those of older and newer versions."""

from collections.abc import Mapping
from typing import Any

from parley.domain.conversation import Reply
from parley.domain.events import Completed, Cursor, End, Failed, FinishReason, Spent, Usage
from parley.support.encoding import from_json, to_json
from parley.valkey.macs import LENGTH, Macs

_VERSION = 1
# The kinds of values that end in their MAC.
_DONE, _PARKED = b"done", b"parked"


def end_to_bytes(end: End) -> bytes:
    """Encode an end."""
    return to_json(_end_fields(end))


def end_of_bytes(data: bytes) -> End:
    """Decode an end. Raises `ValueError`."""
    return _end_of(from_json(data))


def done_to_bytes(reply: Reply, key: str, macs: Macs) -> bytes:
    """Encode the cached reply of a generation."""
    return _signed(_reply_to_bytes(reply), _DONE, key, macs)


def done_of_bytes(data: bytes, key: str, macs: Macs) -> Reply:
    """Decode the cached reply of a generation, of any end.

    Raises `ValueError` if another hand wrote it, if it is corrupt, or if it is of another version.
    """
    return _reply_of_bytes(_verified(data, _DONE, key, macs))


def cached_of_bytes(data: bytes, key: str, macs: Macs) -> Reply:
    """Decode a cached reply. Raises `ValueError` as `done_of_bytes`, and if it is not cacheable."""
    reply = done_of_bytes(data, key, macs)
    if not reply.cacheable:
        raise ValueError("not a reply that ended well")
    return reply


def parked_to_bytes(reply: Reply, source: str, session_id: str, macs: Macs) -> bytes:
    """Encode a parked reply."""
    return _signed(to_json([source, _reply_to_bytes(reply).decode()]), _PARKED, session_id, macs)


def parked_of_bytes(data: bytes, session_id: str, macs: Macs) -> tuple[Reply, str]:
    """Decode a parked reply and its source. Raises `ValueError` as `done_of_bytes`."""
    match from_json(_verified(data, _PARKED, session_id, macs)):
        case [str(source), str(reply)]:
            return _reply_of_bytes(reply.encode()), source
    raise ValueError("not a parked reply")


def _signed(value: bytes, kind: bytes, name: str, macs: Macs) -> bytes:
    """Return the value with its MAC behind it, where an epoch before it stays readable for a Lua script."""
    return value + macs.make(kind, name, 0, 0, value)


def _verified(data: bytes, kind: bytes, name: str, macs: Macs) -> bytes:
    value, mac = data[:-LENGTH], data[-LENGTH:]
    if not macs.verify(mac, kind, name, 0, 0, value):
        raise ValueError("not a value of this installation")
    return value


def _reply_to_bytes(reply: Reply) -> bytes:
    # The epoch comes first, where a Lua script can read it.
    return b"%d %b" % (reply.epoch, to_json([_VERSION, reply.text, _end_fields(reply.end)]))


def _reply_of_bytes(data: bytes) -> Reply:
    """Decode a reply that can be saved: an older version may have written what the store would refuse."""
    epoch, _, body = data.partition(b" ")
    match from_json(body):
        case [version, str(text), dict(end)] if version == _VERSION and _is_storable(text):
            at = Cursor.parse(f"{epoch.decode()}-{len(text)}")
            if at is not None:
                return Reply(at.epoch, text, _end_of(end))
    raise ValueError("not a reply of this version")


def _end_fields(end: End) -> dict[str, Any]:
    # An end without `spent` is the older format. A version that does not know `spent` ignores it.
    spent = {"spent": [end.spent.input_tokens, end.spent.output_tokens]} if end.spent is not None else {}
    if isinstance(end, Failed):
        return {
            "code": end.code, "message": end.message,
            "retryable": end.retryable, "retryAfterMs": end.retry_after_ms,
        } | spent  # fmt: skip
    usage = end.usage and [end.usage.input_tokens, end.usage.output_tokens]
    return {"finish": end.finish_reason.value, "providerReason": end.provider_reason, "usage": usage} | spent


def _end_of(fields: Mapping[str, Any]) -> End:
    match fields:
        case {"code": str(code), "message": str(message), "retryable": bool(retryable)}:
            after = fields.get("retryAfterMs")
            if _is_storable(code + message) and (after is None or _is_count(after)):
                return Failed(code, message, retryable, after, _spent_of(fields))
        case {"finish": str(finish), "providerReason": None | str() as reason, "usage": usage}:
            if _is_storable(reason or ""):
                return Completed(FinishReason(finish), reason, _usage_of(usage), _spent_of(fields))
    raise ValueError("not an end")


def _usage_of(value: Any) -> Usage | None:
    match value:
        case None:
            return None
        case [given, returned] if _is_count(given) and _is_count(returned):
            return Usage(given, returned)
    raise ValueError("not a usage")


def _spent_of(fields: Mapping[str, Any]) -> Spent | None:
    match fields.get("spent"):
        case None:
            return None
        case [given, returned] if (given is None or _is_count(given)) and _is_count(returned):
            return Spent(given, returned)
    raise ValueError("not what was spent")


def _is_storable(text: str) -> bool:
    return "\0" not in text  # Postgres refuses NUL in text


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31  # Postgres's integer
