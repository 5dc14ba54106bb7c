"""Reasoning at the beginning of a text, however it is cut into pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.providers.think_tags import ThinkTags


def split(pieces: list[str], *, ended_well: bool = True) -> tuple[str, str]:
    """Return what the pieces say and what they think."""
    tags = ThinkTags()
    found = [tags.feed(piece) for piece in pieces] + [tags.flush(ended_well=ended_well)]
    return "".join(part.text for part in found), "".join(part.reasoning for part in found)


CASES = [
    ("<think>\nhm\n</think>\n\nHi", "Hi", "\nhm\n"),
    (" \n<think>hm</think>Hi", "Hi", "hm"),
    ("<thought>hm</thought>Hi", "Hi", "hm"),
    ("<thinking>hm</think></thinking>Hi", "Hi", "hm</think>"),
    ("[THINK]hm[/THINK]Hi", "Hi", "hm"),
    ("◁think▷hm◁/think▷Hi", "Hi", "hm"),
    ("</think>\n\nHi", "Hi", ""),
    ("<think></think>Hi <think>no</think>", "Hi <think>no</think>", ""),
    ("Hi <think>no</think>", "Hi <think>no</think>", ""),
    ("`<think>` opens", "`<think>` opens", ""),
    ("<thin", "<thin", ""),
    ("<thinker>Hi", "<thinker>Hi", ""),
    ("  Hi ", "  Hi ", ""),
    (" \n ", " \n ", ""),
    ("", "", ""),
    ("<think>hm</think>", "", "hm"),
]


@pytest.mark.parametrize(("text", "said", "thought"), CASES)
def test_a_tag_at_the_beginning_holds_reasoning(text: str, said: str, thought: str) -> None:
    assert split([text]) == (said, thought)
    assert split(list(text)) == (said, thought)


@given(st.sampled_from(CASES), st.lists(st.integers(1, 9)))
def test_the_pieces_make_no_difference(case: tuple[str, str, str], sizes: list[int]) -> None:
    text, said, thought = case
    pieces = []
    for size in sizes:
        pieces.append(text[:size])
        text = text[size:]
    assert split([*pieces, text]) == (said, thought)


def test_a_tag_that_was_cut_off_is_reasoning_and_one_that_never_closes_is_the_answer() -> None:
    assert split(["<think>h", "m</th"], ended_well=False) == ("", "hm</th")
    said, _ = split(["<think>h", "m</th"])
    assert said == "<think>hm</th"
