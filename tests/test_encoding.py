"""Text that every store and wire can carry, however a provider cut it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.encoding import TextCleaner, clean, from_json, to_json

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
def test_cuts_do_not_matter(chunks: list[str]) -> None:
    cleaner = TextCleaner()
    assert "".join([*map(cleaner.feed, chunks), cleaner.flush()]) == reference("".join(chunks))


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_all_else_passes_as_it_is(text: str) -> None:
    assert TextCleaner().feed(text) == text


def test_holds_back_half_a_pair_only() -> None:
    cleaner = TextCleaner()
    assert [cleaner.feed(part) for part in ("a\ud83d", "", "\ude00b", "\ud83d")] == ["a", "", "😀b", ""]
    assert cleaner.flush() == "\ufffd"
    assert cleaner.flush() == ""


@given(texts)
def test_what_is_clean_is_utf8_without_nul(text: str) -> None:
    assert b"\0" not in clean(text).encode()


def test_json() -> None:
    assert to_json({"a": "é\n\u2028"}) == b'{"a":"\xc3\xa9\\n\xe2\x80\xa8"}'
    assert from_json(b'{"a":[1,null]}') == {"a": [1, None]}
    with pytest.raises(ValueError):
        from_json(b'{"a":')
