"""What a model is asked, and when two questions are the same."""

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from parley.domain.conversation import LeftOut, Model, ModelOptions, Role, Turn
from parley.domain.errors import ContextTooLong
from parley.domain.prompt import generation_key, left_out, normalise, shortened, tokens_of, trim
from parley.support.encoding import is_blank

MODEL = Model("small", "maker", "small-1", "Small", 100, 1000)

words = st.sampled_from(["", "\n ", "\u200b", "a", "b", "Why?", "Why? ", "é"])
turns = st.lists(st.builds(Turn, st.sampled_from(Role), words), max_size=12)


def user(text: str) -> Turn:
    return Turn(Role.USER, text)


def room(characters: int) -> Model:
    return replace(MODEL, context_characters=characters)


def assistant(text: str) -> Turn:
    return Turn(Role.ASSISTANT, text)


# -- normalise -------------------------------------------------------------------------------------


@given(turns)
def test_the_normal_form_is_pairs_and_a_question(history: list[Turn]) -> None:
    found = normalise([*history, user("Why?")])
    assert len(found) % 2 == 1
    assert [turn.role for turn in found[::2]] == [Role.USER] * (len(found) // 2 + 1)
    assert [turn.role for turn in found[1::2]] == [Role.ASSISTANT] * (len(found) // 2)
    assert found[-1] == user("Why?")
    assert not any(is_blank(turn.text) for turn in found[1::2])
    assert normalise(found) == found


def test_a_chat_of_one_question_is_asked_without_context() -> None:
    pair = (user("What is AI?"), assistant("A field."))
    for times in range(4):
        asked = normalise([*pair * times, user("What is AI?")])
        assert asked == (user("What is AI?"),)
    # Not where the chat began with another question that was not read.
    assert normalise([*pair, user("What is AI?")], whole=False) == (*pair, user("What is AI?"))
    # A question without an answer was never asked, as far as the model knows.
    lost = (user("Lost?"), assistant(""))
    assert normalise([*lost, *pair, *lost, user("What is AI?")]) == (user("What is AI?"),)


def test_a_question_in_the_same_words_goes_on_from_its_answer() -> None:
    story = (user("Tell me a story"), assistant("Once"), user("continue"), assistant("upon"))
    assert normalise([*story, user("continue")]) == (*story, user("continue"))
    more = (*story, user("continue"), assistant("a time"))
    assert normalise([*more, user("continue")]) == (*more, user("continue"))


@given(turns)
def test_every_answered_turn_of_a_chat_with_two_questions_is_kept(history: list[Turn]) -> None:
    chat = [user("First?"), assistant("1"), *history, user("Why?")]
    found = normalise(chat)
    assert found[:2] == (user("First?"), assistant("1"))
    answered, open_question = [], False
    for turn in chat:
        if turn.role is Role.USER:
            open_question = True
        elif open_question and not is_blank(turn.text):
            answered.append(turn)
            open_question = False
    assert list(found[1::2]) == answered


@given(turns)
def test_a_question_without_an_answer_is_none(history: list[Turn]) -> None:
    unanswered = [*history, user("Lost?"), assistant(""), user("Why?")]
    assert normalise(unanswered) == normalise([*history, user("Why?")])


def test_no_turns_stay_none() -> None:
    assert normalise(()) == ()


# -- trim ------------------------------------------------------------------------------------------


@given(turns, st.integers(-5, 40))
def test_trim_keeps_the_newest_whole_pairs_that_fit(history: list[Turn], budget: int) -> None:
    whole = normalise([*history, user("Why?")])
    kept = trim(whole, room(budget))
    assert kept == whole[len(whole) - len(kept) :]
    assert len(kept) % 2 == 1
    if len(kept) > 1:
        assert sum(len(turn.text) for turn in kept) <= budget
    if len(kept) < len(whole):
        assert sum(len(turn.text) for turn in whole[len(whole) - len(kept) - 2 :]) > budget
    assert trim(whole, room(budget)) == kept == trim(kept, room(budget))


@given(turns, st.integers(-5, 40), st.integers(0, 3))
def test_what_is_left_out_ends_where_what_is_sent_begins(
    history: list[Turn], budget: int, earlier: int
) -> None:
    chat = [
        replace(turn, message_id=str(number), above=number)
        for number, turn in enumerate([*history, user("Why?")], earlier)
    ]
    kept = normalise(chat, whole=not earlier)
    sent = trim(kept, room(budget))
    missing = left_out(earlier, kept, sent)
    if missing is None:
        assert not earlier
        assert sent == kept
    else:
        assert missing == LeftOut(int(sent[0].message_id), sent[0].message_id)
        assert earlier or len(sent) < len(kept)


def test_nothing_is_left_out_where_nothing_was_asked() -> None:
    assert left_out(0, (), ()) is None
    assert left_out(4, (), ()) is None


def test_a_question_that_was_not_answered_is_not_left_out_for_lack_of_room() -> None:
    chat = (user("Lost?"), assistant(""), user("Why?"))
    kept = normalise(chat)
    assert left_out(0, kept, trim(kept, room(40))) is None


@given(turns, st.integers(0, 40), st.integers(0, 40))
def test_more_room_never_keeps_less(history: list[Turn], one: int, other: int) -> None:
    whole = normalise([*history, user("Why?")])
    assert (len(trim(whole, room(one))) <= len(trim(whole, room(other)))) or one > other


def test_of_no_turns_none_are_left() -> None:
    assert trim((), room(10)) == ()


def test_a_bound_in_tokens_holds_fewer_characters_of_what_is_dear() -> None:
    bounded = replace(MODEL, options=ModelOptions(context_tokens=100))
    pairs = {text: (user(text * 200), assistant("1"), user("Why?")) for text in ("a", "7", "漢", "👍")}
    kept = {text: len(trim(turns, bounded)) for text, turns in pairs.items()}
    assert kept == {"a": 3, "7": 1, "漢": 1, "👍": 1}


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("abcd" * 17, 20), ("2026", 4), ("漢字漢字漢字漢字漢" * 3, 20), ("👍👍", 2)]
)
def test_tokens_are_estimated_by_kind_of_text(text: str, tokens: int) -> None:
    assert round(tokens_of(text)) == tokens


# -- shortened -------------------------------------------------------------------------------------

HISTORY = tuple(turn for number in range(5) for turn in (user(f"{number}" * 100), assistant("." * 100)))


@pytest.mark.parametrize(
    ("fault", "again", "pairs"),
    [
        (ContextTooLong(), False, 2),
        (ContextTooLong(1000, 750), False, 3),
        (ContextTooLong(1000, 750), True, 2),
        (ContextTooLong(100_000, 10), False, 0),
        (ContextTooLong(1001, 1000), False, 4),
    ],
)
def test_a_context_that_is_too_long_loses_its_oldest_pairs(
    fault: ContextTooLong, again: bool, pairs: int
) -> None:
    whole = (*HISTORY, user("Why?"))
    assert shortened(whole, fault, again=again) == whole[len(whole) - 2 * pairs - 1 :]


def test_a_question_alone_cannot_be_shortened() -> None:
    assert shortened((user("Why?"),), ContextTooLong(), again=False) is None


# -- generation_key --------------------------------------------------------------------------------

values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from(["", "a", "b"])),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=4,
)
models = st.builds(
    Model,
    id=st.sampled_from(["small", "large"]),
    provider=st.sampled_from(["maker", "other"]),
    name=st.sampled_from(["small-1", "small-2"]),
    title=st.sampled_from(["Small", "Large"]),
    max_output_tokens=st.sampled_from([100, 1000]),
    context_characters=st.sampled_from([100, 1000]),
    system_prompt=words,
    parameters=st.dictionaries(st.sampled_from(["a", "b", "temperature"]), values, max_size=2),
)
questions = st.fixed_dictionaries(
    {
        "model": models,
        "adapter": st.sampled_from(["maker/1", "maker/2", ""]),
        "turns": turns.map(lambda history: normalise([*history, user("Why?")])),
        "user_id": st.sampled_from(["ada", "bob"]),
        "share_context_free": st.booleans(),
        "bypass": st.sampled_from([None, "s1", "s2"]),
    }
)


def what_counts(question: dict[str, Any]) -> str:
    """Say everything that must make a difference, in a form that can be compared."""
    model = question["model"]
    shared = question["share_context_free"] and len(question["turns"]) == 1
    return json.dumps(
        [
            None if shared else question["user_id"],
            question["bypass"],
            question["adapter"],
            [model.provider, model.name, model.max_output_tokens, model.system_prompt],
            model.parameters,
            [(turn.role.value, turn.text) for turn in question["turns"]],
        ],
        sort_keys=True,
    )


def key(question: dict[str, Any], secret: bytes = b"secret") -> str:
    return generation_key(secret, **question)


@given(questions, questions)
def test_keys_differ_exactly_where_something_does(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (key(one) == key(other)) == (what_counts(one) == what_counts(other))


@given(questions, st.data())
def test_any_one_difference_makes_another_key(question: dict[str, Any], data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(sorted(question)))
    other = question | {field: data.draw(questions)[field]}
    assume(what_counts(question) != what_counts(other))
    assert key(question) != key(other)


@given(questions)
def test_a_key_is_a_name_that_tells_nothing(question: dict[str, Any]) -> None:
    assert len(key(question)) == 43
    assert key(question) == key(question)
    assert key(question) != key(question, b"other")
    assert key(question).replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize(
    ("turns", "share", "same"),
    [
        ((user("Why?"),), True, True),
        ((user("Why?"),), False, False),
        ((user("a"), assistant("1"), user("Why?")), True, False),
        ((user("a"), assistant("1"), user("Why?")), False, False),
    ],
)
def test_users_share_only_what_has_no_context(turns: tuple[Turn, ...], share: bool, same: bool) -> None:
    keys = {
        generation_key(
            b"secret", model=MODEL, adapter="a", turns=turns, user_id=user_id,
            share_context_free=share, bypass=None,
        )
        for user_id in ("ada", "bob")
    }  # fmt: skip
    assert len(keys) == (1 if same else 2)


def test_neither_the_order_of_parameters_nor_what_only_we_see_counts() -> None:
    def of(model: Model) -> str:
        return generation_key(
            b"secret", model=model, adapter="a", turns=[user("Why?")], user_id="ada",
            share_context_free=True, bypass=None,
        )  # fmt: skip

    one = replace(MODEL, parameters={"a": 1, "b": 2})
    assert of(one) == of(replace(one, parameters={"b": 2, "a": 1}, id="x", title="X", context_characters=5))
