"""JSON in and out, and text that every store and wire can carry."""

import re
from typing import Any

import msgspec

_encoder = msgspec.json.Encoder()
_SURROGATE = re.compile("[\ud800-\udfff]")


def to_json(value: object) -> bytes:
    """Return `value` as compact JSON in UTF-8."""
    return _encoder.encode(value)


def from_json(data: bytes | str) -> Any:
    """Return what `data` says; raises `ValueError` (msgspec's) where it is not JSON, or nested too deeply."""
    try:
        return msgspec.json.decode(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


class TextCleaner:
    """Joins surrogate pairs that a provider split between chunks, and drops what no store takes.

    Postgres takes neither NUL nor lone surrogates, and UTF-8 has no lone surrogates (RFC 3629, 3),
    so a reply loses NUL and shows U+FFFD for half a pair. All else passes byte for byte.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        """Return what can be shown of everything fed so far and not yet returned."""
        if not self._held and text.isascii() and "\0" not in text:
            return text
        # NUL goes first: a pair may be split around one, and must join whatever the chunks are.
        text = self._held + text.replace("\0", "")
        self._held = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._held = text[:-1], text[-1]
        return clean(text)

    def flush(self) -> str:
        """Return what is left when no more text will come."""
        held, self._held = self._held, ""
        return clean(held)


def clean(text: str) -> str:
    """Return `text` with surrogate pairs joined, lone ones replaced by U+FFFD, and without NUL."""
    if "\0" in text:
        text = text.replace("\0", "")
    if _SURROGATE.search(text):
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
