"""How replies and ends are written into the log, and read from it by whatever version wrote them."""

from collections.abc import Mapping
from typing import Any

from parley.conversation import Reply
from parley.encoding import from_json, to_json
from parley.events import Completed, End, Failed, FinishReason, Usage

_VERSION = 1


def end_to_bytes(end: End) -> bytes:
    """Write an end."""
    return to_json(_end_fields(end))


def end_of_bytes(data: bytes) -> End:
    """Read an end; raises `ValueError` for anything else."""
    return _end_of(from_json(data))


def reply_to_bytes(reply: Reply) -> bytes:
    """Write a reply, its epoch first, where a script can read it."""
    return b"%d %b" % (reply.epoch, to_json([_VERSION, reply.text, _end_fields(reply.end)]))


def reply_of_bytes(data: bytes) -> Reply:
    """Read a reply; raises `ValueError` for what is corrupt or of another version."""
    epoch, _, body = data.partition(b" ")
    match from_json(body):
        case [version, str(text), dict(end)] if version == _VERSION:
            return Reply(int(epoch), text, _end_of(end))
    raise ValueError("not a reply of this version")


def _end_fields(end: End) -> dict[str, Any]:
    if isinstance(end, Failed):
        return {
            "code": end.code, "message": end.message,
            "retryable": end.retryable, "retryAfterMs": end.retry_after_ms,
        }  # fmt: skip
    usage = end.usage and [end.usage.input_tokens, end.usage.output_tokens]
    return {"finish": end.finish_reason.value, "providerReason": end.provider_reason, "usage": usage}


def _end_of(fields: Mapping[str, Any]) -> End:
    try:
        if "code" in fields:
            return Failed(fields["code"], fields["message"], fields["retryable"], fields["retryAfterMs"])
        usage = fields["usage"]
        return Completed(
            FinishReason(fields["finish"]), fields["providerReason"], Usage(*usage) if usage else None
        )
    except (KeyError, TypeError) as error:
        raise ValueError("not an end") from error
