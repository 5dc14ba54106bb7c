"""The demo model."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.domain.events import Delta, Finish, FinishReason, ModelEvent, Usage
from parley.providers.demo import DemoModel, reply_to, tokens_of
from tests.providers.chat_models import question, text_of


async def ask(model: DemoModel, *turns: str, limit: int = 5000) -> list[ModelEvent]:
    return [event async for event in model.stream(question("demo", *turns, limit=limit))]


async def test_answers_the_same_each_time() -> None:
    first, second = await ask(DemoModel(0), "Why?"), await ask(DemoModel(100_000), "Why?")
    assert text_of(first) == text_of(second) == reply_to("Why?")
    assert text_of(first) != text_of(await ask(DemoModel(0), "How?"))


async def test_the_demo_model_counts_its_tokens() -> None:
    *deltas, end = await ask(DemoModel(0), "one two", "an answer", "three?")
    assert end == Finish(FinishReason.STOP, "stop", Usage(6, len(deltas)))


async def test_the_demo_model_stops_at_the_limit() -> None:
    *deltas, end = await ask(DemoModel(0), "Why?", limit=5)
    assert len(deltas) == 5
    assert end == Finish(FinishReason.LENGTH, "length", Usage(2, 5))


async def test_shows_what_a_page_must_render() -> None:
    reply = reply_to("Wie geht's, Jürgen?", earlier=1)
    assert reply.startswith("## ")
    for part in (
        "demo model",
        "\n- ",
        "\n```python\n",
        "\n```\n",
        "👋",
        "> Wie geht's, Jürgen?",
        "1 earlier",
    ):
        assert part in reply


async def test_the_demo_model_says_as_many_words_as_it_is_asked_for() -> None:
    assert 500 <= len(reply_to("Tell me 500 words about rain").split()) < 560


async def test_the_demo_model_takes_its_time() -> None:
    start = time.monotonic()
    events = await ask(DemoModel(200), "Why?", limit=40)
    assert time.monotonic() - start >= 0.19
    assert len([event for event in events if isinstance(event, Delta)]) == 40


async def test_lets_others_work_at_full_speed() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await ask(DemoModel(0), "Why?")
    task.cancel()
    assert turns > 100


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_tokens_join_to_the_text(text: str) -> None:
    assert "".join(tokens_of(text)) == text


@pytest.mark.parametrize("prompt", ["", " \n", "```\n# x", "x" * 5000, "{0} {quote}", "\u2028"])
def test_the_demo_model_answers_any_prompt(prompt: str) -> None:
    assert "demo model" in reply_to(prompt)
