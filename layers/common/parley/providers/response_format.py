"""Recognizes a response's format by its first bytes: many servers label event streams wrongly."""

import re
from enum import Enum

from parley.support.sse_decoder import CONTENT_TYPE

_EVENT_STREAM = CONTENT_TYPE.partition(";")[0]
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# The fields of an event stream, and a comment's colon (HTML standard, 9.2.5).
_FIELDS = (b"data", b"event", b"id", b"retry")
_FIELD = re.compile(rb"(?:data|event|id|retry)[ \t]*(?::|\r|\n)|:")


class Format(Enum):
    """The format of a reply."""

    EVENTS = "events"
    JSON = "json"


def format_of(begun: bytes, content_type: str) -> Format | None:
    """Return the format of a response, or None if more bytes are needed.

    `begun` is the first bytes, without leading white space. `content_type` decides only where they begin
    neither JSON, nor a page, nor a known field of an event stream. Raises
    `ValueError` if the response is no reply.
    """
    if _BYTE_ORDER_MARK.startswith(begun):
        return None
    if begun[:1] in (b"{", b"["):
        return Format.JSON
    if _FIELD.match(begun):
        return Format.EVENTS
    if begun[:1] != b"<":
        if _is_labelled(content_type):
            return Format.EVENTS
        if any(field.startswith(begun) for field in _FIELDS):
            return None
    raise ValueError("the response is neither an event stream nor JSON")


def _is_labelled(content_type: str) -> bool:
    """Return whether a media type, or any of several in a doubled header, is that of event streams."""
    return any(part.partition(";")[0].strip().lower() == _EVENT_STREAM for part in content_type.split(","))
