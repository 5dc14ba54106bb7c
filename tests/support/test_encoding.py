"""Text that every store and wire can carry, however a provider cut it."""

import sys
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct, ValidationError

from parley.support.encoding import TextCleaner, clean, convert_leniently, from_json, is_blank, to_json

texts = st.text(st.one_of(st.characters(), st.sampled_from("\0\ud83d\ude00\ud800\udfff\ufffda")), max_size=30)


def reference(text: str) -> str:
    """Join pairs, replace what is left of them, drop NUL; one character at a time."""
    text = text.replace("\0", "")
    result, at = "", 0
    while at < len(text):
        high, low = text[at], text[at + 1 : at + 2]
        if "\ud800" <= high <= "\udbff" and "\udc00" <= low <= "\udfff":
            result += chr(0x10000 + (ord(high) - 0xD800) * 0x400 + ord(low) - 0xDC00)
            at += 2
        else:
            result += "\ufffd" if "\ud800" <= high <= "\udfff" else high
            at += 1
    return result


@given(texts)
def test_clean_equals_the_reference(text: str) -> None:
    assert clean(text) == reference(text)


@given(st.lists(texts, max_size=10))
def test_a_text_is_cleaned_the_same_wherever_it_is_cut(chunks: list[str]) -> None:
    cleaner = TextCleaner()
    assert "".join([*map(cleaner.feed, chunks), cleaner.flush()]) == reference("".join(chunks))


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_a_clean_text_passes_as_it_is(text: str) -> None:
    assert TextCleaner().feed(text) == text


def test_holds_back_half_a_pair_only() -> None:
    cleaner = TextCleaner()
    assert [cleaner.feed(part) for part in ("a\ud83d", "", "\ude00b", "\ud83d")] == ["a", "", "😀b", ""]
    assert cleaner.flush() == "\ufffd"
    assert cleaner.flush() == ""


@given(texts)
def test_what_is_clean_is_utf8_without_nul(text: str) -> None:
    assert b"\0" not in clean(text).encode()


def test_json_is_compact_utf8_and_read_strictly() -> None:
    assert to_json({"a": "é\n\u2028"}) == b'{"a":"\xc3\xa9\\n\xe2\x80\xa8"}'
    assert from_json(b'{"a":[1,null]}') == {"a": [1, None]}
    with pytest.raises(ValueError):
        from_json(b'{"a":')


class _Inner(Struct):
    count: int | None = None


class _Outer(Struct):
    inner: _Inner | None = None
    items: list[_Inner] | None = None
    text: str | list[Any] | None = None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, _Outer()),
        ({"inner": 7, "items": "x", "text": False, "other": 1}, _Outer()),
        ({"inner": {"count": "7"}}, _Outer(_Inner())),
        ({"inner": {"count": 7}, "items": [None, {"count": 1}, 7, {"count": []}]},
         _Outer(_Inner(7), [_Inner(1), _Inner()])),
        ({"text": [1, {}], "inner": []}, _Outer(text=[1, {}])),
    ],
)  # fmt: skip
def test_what_is_of_another_type_counts_as_absent(value: object, expected: _Outer) -> None:
    assert convert_leniently(value, _Outer) == expected


def test_a_value_that_is_of_another_type_itself_is_refused() -> None:
    with pytest.raises(ValidationError):
        convert_leniently([1], _Outer)


@pytest.mark.parametrize(
    ("text", "blank"),
    [("", True), (" \n\t\u00a0\u3000", True), ("\u200b\ufeff\u2060", True), ("\0\x1b", True), (" a ", False),
     ("👍", False), ("\u200b.", False)],
)  # fmt: skip
def test_a_text_is_blank_where_nothing_of_it_can_be_seen(text: str, blank: bool) -> None:
    assert is_blank(text) is blank


def test_every_space_control_and_format_character_is_blank_and_no_other_is() -> None:
    # Characters that this Python's version of Unicode does not have are left out.
    characters = [chr(code) for code in range(sys.maxunicode + 1)]
    known = [character for character in characters if unicodedata.category(character) != "Cn"]
    blank = [one for one in known if one.isspace() or unicodedata.category(one) in ("Cc", "Cf")]
    assert [one for one in known if is_blank(one)] == blank


@given(st.text(max_size=12), st.lists(st.integers(1, 5)))
def test_characters_that_were_cut_into_bytes_are_joined(text: str, sizes: list[int]) -> None:
    data, cleaner, found = clean(text).encode(), TextCleaner(), ""
    for size in (*sizes, len(data)):
        found += cleaner.feed(data[:size].decode("utf-8", "surrogateescape"))
        data = data[size:]
    assert found + cleaner.flush() == clean(text)
