"""Cursors, and what an end makes of a message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.domain.conversation import Reply
from parley.domain.events import Completed, Cursor, End, Failed, FinishReason, Status, status_of

FAILED = Failed("busy", "Busy.", retryable=True)


@given(st.integers(0, 10**18 - 1), st.integers(0, 10**12 - 1))
def test_a_cursor_is_what_it_says(epoch: int, position: int) -> None:
    cursor = Cursor(epoch, position)
    assert str(cursor) == f"{epoch}-{position}"
    assert Cursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize(
    "value",
    ["", "-", "1", "1-", "-1", "1-2-3", "01-2", "1-02", "+1-2", "1--2", "1 -2", " 1-2", "1-2 ", "1-2\n",
     "a-b", "1.0-2", "١-٢", "²-1", "1_0-2", "0x1-2", "9" * 19 + "-1", "1-" + "9" * 13, "1-" + "9" * 99_999,
     "\0", "null"],
)  # fmt: skip
def test_anything_else_is_no_cursor(value: str) -> None:
    assert Cursor.parse(value) is None


@given(st.text(st.sampled_from("0123456789-+ \n٣x"), max_size=8))
def test_what_is_read_is_written_the_same(value: str) -> None:
    cursor = Cursor.parse(value)
    assert cursor is None or str(cursor) == value


def test_cursors_are_in_the_order_of_the_log() -> None:
    assert Cursor(1, 42) < Cursor(1, 100) < Cursor(2, 0)


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (Completed(FinishReason.STOP), Status.COMPLETE),
        (Completed(FinishReason.LENGTH), Status.TRUNCATED),
        (Completed(FinishReason.CONTENT_FILTER), Status.FILTERED),
        (Completed(FinishReason.STOPPED), Status.STOPPED),
        (Completed(FinishReason.TRUNCATED), Status.TRUNCATED),
        (FAILED, Status.FAILED),
    ],
)
def test_every_end_has_its_status_and_only_the_natural_one_is_cached(end: End, status: Status) -> None:
    assert status_of(end) is Reply(1, "Text", end).status is status
    assert Reply(1, "Text", end).cacheable is (status is Status.COMPLETE)
    assert not Reply(1, "", end).cacheable
