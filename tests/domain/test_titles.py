"""A chat's title is one visible line, cut between characters as readers see them."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.domain.titles import UNTITLED, shown_title, title_of

FAMILY = "👩\u200d👩\u200d👧\u200d👦"
HEART = "❤\ufe0f\u200d🔥"
SCOTLAND = "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"
# What Unicode has for directions: marks, embeddings, overrides and isolates.
DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
INVISIBLE = [
    "", " \n\t", "\u200b", "\u200d\u200c", "\ufeff\u2060", "\x00\x1b\x9b", "\u2800 \u3164\uffa0", "\u034f",
    "\ufe0f\U000e0100", "\u00ad", "\u115f\u1160", "\U000e0041\U000e0042\U000e007f", "\ufdd0\uffff",
    DIRECTIONS,
]  # fmt: skip
# Letters, and all that a title has to handle with care.
_awkward = st.one_of(
    st.characters(),
    st.sampled_from(
        [*" \n\t\r\x1b\x85\xa0\xad\u034f\u115f\u200b\u200c\u200d\u2028\u3164\ufe0f\ufeffe\u0301👩🇩🇪🏽क्ष",
         "\U000e0062", "\U000e007f", "🏴", *DIRECTIONS]
    ),
)  # fmt: skip
_prompts = st.lists(_awkward, max_size=120).map("".join)


@given(_prompts, st.integers(5, 100))
def test_a_title_is_one_short_line_with_nothing_that_controls_it(prompt: str, limit: int) -> None:
    title = title_of(prompt, limit)
    assert 0 < len(title) <= max(limit + 1, len(UNTITLED))
    assert title == " ".join(title.split())
    assert not [
        character for character in title if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    ]
    assert not set(title) & {*DIRECTIONS, "\u200b", "\u2060", "\ufeff", "\xad", "\u2800", "\u3164", "\uffa0"}
    assert title[0] not in "\u200c\u200d\ufe0f"
    assert title[-1] not in "\u200c\u200d"


@given(_prompts)
def test_a_title_is_shown_as_it_is(prompt: str) -> None:
    assert shown_title(title_of(prompt)) == title_of(prompt)


def test_a_title_is_the_prompt_s_first_words() -> None:
    assert title_of("  What\n is\tAI? ") == "What is AI?"
    assert title_of("one two three", 9) == "one two…"
    assert title_of("one two three", 7) == "one two…"
    assert title_of("one two", 7) == "one two"
    assert title_of("x" * 10, 9) == "x" * 9 + "…"


def test_a_word_longer_than_the_title_does_not_leave_a_stump() -> None:
    assert title_of("See https://example.org/" + "x" * 80, 20) == "See https://example.…"
    assert title_of("Hi 这是一个没有空格的很长的问题", 10) == "Hi 这是一个没有空…"


@pytest.mark.parametrize("prompt", INVISIBLE, ids=ascii)
def test_a_prompt_without_anything_visible_has_a_title_all_the_same(prompt: str) -> None:
    assert title_of(prompt) == shown_title(prompt) == UNTITLED
    assert title_of(prompt * 100) == UNTITLED


@pytest.mark.parametrize(
    ("prompt", "title"),
    [
        ("What\x1b[31m is\x07 AI\x9b?", "What[31m is AI?"),
        ("one\r\ntwo\x85three\u2028four\u2029five\x0bsix", "one two three four five six"),
        ("invoice\u202egpj.exe", "invoicegpj.exe"),
        ("\u2067שלום\u2069 \u200fعالم\u061c", "שלום عالم"),
        ("pass\u200bword \ufeffre\u00adset", "password reset"),
        ("a \u200b b", "a b"),
        ("a \u200d b", "a b"),
        ("a\u200d\u200d\u200d\u200db", "a\u200db"),
        ("hidden\U000e0068\U000e0069", "hidden"),
        ("\ufe0fa", "a"),
        ("a\ud800b", "ab"),
    ],
    ids=ascii,
)
def test_what_hides_or_disorders_text_is_left_out(prompt: str, title: str) -> None:
    assert title_of(prompt) == shown_title(prompt) == title


@pytest.mark.parametrize(
    "prompt",
    [
        FAMILY, HEART, SCOTLAND, "👍🏽", "🇩🇪🇫🇷", "1\ufe0f\u20e3", "☀\ufe0e", "می\u200cخواهم", "क्\u200dष",
        "e\u0301\u0323", "葛\U000e0100", "ᄒ\u1161ᆫ", "สวัสดี", "\u0600١٢", "été", "שָׁלוֹם",
    ],
    ids=ascii,
)  # fmt: skip
def test_emoji_and_scripts_stay_whole(prompt: str) -> None:
    assert title_of(prompt) == shown_title(prompt) == prompt
    assert title_of(f"a {prompt} b") == f"a {prompt} b"


@pytest.mark.parametrize(
    "character",
    [
        FAMILY,
        HEART,
        SCOTLAND,
        "👍🏽",
        "🇩🇪",
        "1\ufe0f\u20e3",
        "e\u0301\u0323",
        "क्ष",
        "葛\U000e0100",
        "ᄒ\u1161ᆫ",
        "각ᆨ",
    ],
    ids=ascii,
)
def test_a_cut_goes_between_characters_as_readers_see_them(character: str) -> None:
    for limit in range(2 * len(character), 5 * len(character)):
        cut = title_of(character * 10, limit)
        assert cut.endswith("…")
        whole, rest = divmod(len(cut) - 1, len(character))
        assert (cut[:-1], rest) == (character * whole, 0)
        assert whole == limit // len(character)


def test_a_character_longer_than_a_title_is_cut_somewhere() -> None:
    assert title_of("e" + "\u0301" * 100, 10) == "e" + "\u0301" * 9 + "…"


def test_an_old_title_is_cleaned_but_not_shortened() -> None:
    assert shown_title("x" * 200 + "\u202e") == "x" * 200
    assert shown_title("Plain title?") == "Plain title?"
