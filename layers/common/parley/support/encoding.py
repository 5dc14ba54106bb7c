"""Encodes and decodes JSON, and cleans text for every store and protocol."""

import json
import re
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec

_encoder = msgspec.json.Encoder()
_SURROGATE = re.compile("[\ud800-\udfff]")
# Bytes that are not UTF-8, as Python's `surrogateescape` writes them. After a high surrogate such a code
# point is half of a pair.
_ESCAPED = re.compile("(?<![\ud800-\udbff])[\udc80-\udcff]+")
# White space, control characters (Cc) and format characters (Cf) of Unicode 16. A list, since SQL needs it
# too, and since each version of Python knows another version of Unicode.
_INVISIBLE = (
    (0x0, 0x20), (0x7F, 0xA0), (0xAD, 0xAD), (0x600, 0x605), (0x61C, 0x61C), (0x6DD, 0x6DD), (0x70F, 0x70F),
    (0x890, 0x891), (0x8E2, 0x8E2), (0x1680, 0x1680), (0x180E, 0x180E), (0x2000, 0x200F), (0x2028, 0x202F),
    (0x205F, 0x2064), (0x2066, 0x206F), (0x3000, 0x3000), (0xFEFF, 0xFEFF), (0xFFF9, 0xFFFB),
    (0x110BD, 0x110BD), (0x110CD, 0x110CD), (0x13430, 0x1343F), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A),
    (0xE0001, 0xE0001), (0xE0020, 0xE007F),
)  # fmt: skip
INVISIBLE = "".join(chr(code) for first, last in _INVISIBLE for code in range(first, last + 1))


def to_json(value: object) -> bytes:
    """Return `value` as compact JSON in UTF-8."""
    return _encoder.encode(value)


def from_json(data: bytes | str) -> Any:
    """Return the value of a JSON text. Raises `ValueError` (msgspec's), also for JSON nested too deeply."""
    try:
        return msgspec.json.decode(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def convert_leniently(value: object, kind: Any) -> Any:
    """Return a JSON `value` as `kind`: a Struct whose fields have defaults, or a union or list of such.

    A field of another type counts as absent, and an item of another type is left out. Raises
    `msgspec.ValidationError` if `value` itself is of another type.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        failure = error
    for arm in get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,):
        if isinstance(value, dict) and isinstance(arm, type) and issubclass(arm, msgspec.Struct):
            found = {}
            for item in msgspec.structs.fields(arm):
                if item.encode_name in value:
                    try:
                        found[item.name] = convert_leniently(value[item.encode_name], item.type)
                    except msgspec.ValidationError:
                        continue
            return arm(**found)
        if isinstance(value, list) and get_origin(arm) is list:
            items = []
            for item in value:
                try:
                    items.append(convert_leniently(item, get_args(arm)[0]))
                except msgspec.ValidationError:
                    continue
            return items
    raise failure


def json_of_any_bytes(data: bytes) -> Any:
    """Return the value of a JSON text that may hold half a character or half a surrogate pair.

    A half stays in its text as a surrogate, which `TextCleaner` joins to the other half. Raises `ValueError`.
    """
    try:
        return json.loads(data.decode("utf-8", "surrogateescape"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def is_blank(text: str) -> bool:
    """Tell whether `text` is invisible: only white space, control characters and format characters."""
    return not text.lstrip(INVISIBLE)


class TextCleaner:
    """Joins characters that a provider split between chunks, and drops characters that no store takes.

    Postgres takes neither NUL nor lone surrogates, and UTF-8 has no lone surrogates (RFC 3629, section 3). A
    reply thus loses NUL, and shows U+FFFD for half a surrogate pair and for bytes that are not UTF-8, which
    arrive as `surrogateescape` writes them. All other text passes byte for byte.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        """Return the text that can be shown of everything fed so far and not yet returned."""
        if not self._held and text.isascii() and "\0" not in text:
            return text
        # NUL goes first: a NUL may split a pair, which must join wherever the chunks end.
        text = self._held + text.replace("\0", "")
        self._held = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._held = text[:-1], text[-1]
        elif begun := _begun_character(text):
            text, self._held = text[:-begun], text[-begun:]
        return clean(text)

    def flush(self) -> str:
        """Return the rest, when no more text will come."""
        held, self._held = self._held, ""
        return clean(held)


def clean(text: str) -> str:
    """Return `text` with surrogate pairs and escaped bytes joined, lone ones as U+FFFD, and without NUL."""
    if "\0" in text:
        text = text.replace("\0", "")
    if _SURROGATE.search(text):
        text = _ESCAPED.sub(lambda found: _bytes_of(found[0]).decode("utf-8", "replace"), text)
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _bytes_of(escaped: str) -> bytes:
    return escaped.encode("ascii", "surrogateescape")


def _begun_character(text: str) -> int:
    """Return how many escaped bytes at the end begin a UTF-8 character whose rest is still to come."""
    for length in range(1, min(len(text), 3) + 1):
        byte = ord(text[-length]) - 0xDC00
        if not 0x80 <= byte <= 0xFF or "\ud800" <= text[-length - 1 : -length] <= "\udbff":
            return 0
        if byte >= 0xC0:
            size = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return length if length < size else 0
    return 0
