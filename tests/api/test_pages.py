"""A page of history keeps below the size that a Lambda function's response may have."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from parley.api.pages import PAGE_BYTES, page_body
from parley.api.schemas import Wire, chats_body
from parley.domain.conversation import ChatPage, ChatSummary, Message, Page, Role
from parley.domain.events import Status
from parley.support.encoding import to_json

NOW = datetime(2026, 11, 30, 12, 0, 0, 123456, UTC)
# Bytes of a response that Lambda refuses.
REFUSED = 6_291_556


def message(position: int, text: str) -> Message:
    return Message(f"m{position}", "c", position, Role.ASSISTANT, Status.COMPLETE, text, NOW, NOW, "small")


def page(texts: list[str], next_before: str | None = None, first: int = 1) -> Page:
    messages = tuple(message(first + number, text) for number, text in enumerate(texts))
    return Page("c", "A chat", messages, next_before, None)


def in_response(body: bytes) -> int:
    """Return the length of a function's response with this body, as the more verbose runtime writes it."""
    return len(json.dumps({"statusCode": 200, "body": body.decode(), "isBase64Encoded": False}))


def shown(made: Wire) -> Any:
    return json.loads(to_json(made))


@pytest.mark.parametrize("next_before", [None, "7"])
def test_a_page_that_fits_is_whole_and_keeps_its_next_page(next_before: str | None) -> None:
    made = shown(page_body(page(["One", "", "Three"], next_before, first=7)))
    assert [entry["position"] for entry in made["messages"]] == [7, 8, 9]
    assert made["nextBefore"] == next_before
    assert (made["chatId"], made["title"], made["activeSessionId"]) == ("c", "A chat", None)


@pytest.mark.parametrize(
    "character", ["x", '"', "\\", "\n", "\x1b", "é", "問", "😀", "\u2028", "\x7f"], ids=ascii
)
def test_a_page_of_long_messages_is_cut_below_lambda_s_limit(character: str) -> None:
    made = page_body(page([character * 40_000] * 200))
    assert in_response(to_json(made)) < REFUSED
    kept = shown(made)["messages"]
    # It is not cut further than it must be: one more message would not have fitted.
    one = in_response(to_json({"messages": kept[:1]}))
    assert len(kept) == 200 or (len(kept) + 1) * one > PAGE_BYTES


def test_what_is_cut_off_a_page_is_on_the_pages_before_it() -> None:
    texts = [f"{number}: " + "x" * 1_000 for number in range(1, 30)]
    found: list[int] = []
    before: str | None = None
    sizes = []
    while True:
        end = len(texts) if before is None else int(before) - 1
        begin = max(0, end - 8)
        made = shown(
            page_body(page(texts[begin:end], str(begin + 1) if begin else None, begin + 1), limit=5_000)
        )
        found = [entry["position"] for entry in made["messages"]] + found
        sizes.append(len(made["messages"]))
        before = made["nextBefore"]
        if before is None:
            break
    assert found == list(range(1, 30))
    assert set(sizes[:-1]) == {3}


def test_a_message_longer_than_a_page_comes_alone() -> None:
    texts = ["short", "x" * 10_000, "short"]
    newest = shown(page_body(page(texts), limit=5_000))
    assert [entry["position"] for entry in newest["messages"]] == [3]
    assert newest["nextBefore"] == "3"
    long = shown(page_body(page(texts[:2]), limit=5_000))
    assert [entry["position"] for entry in long["messages"]] == [2]
    assert long["nextBefore"] == "2"


def test_a_page_without_messages_stays_one() -> None:
    made = shown(page_body(page([]), limit=0))
    assert (made["messages"], made["nextBefore"]) == ([], None)


def test_the_longest_list_of_chats_is_far_below_lambda_s_limit() -> None:
    # The widest titles and ids of models, and as many chats as one page may have.
    summary = ChatSummary("c" * 64, "😀" * 80 + "…", "😀" * 200, NOW, NOW + timedelta(1), "s" * 64)
    body = to_json(chats_body(ChatPage((summary,) * 200, f"{NOW.isoformat()}_{'c' * 64}")))
    assert in_response(body) < REFUSED / 5
