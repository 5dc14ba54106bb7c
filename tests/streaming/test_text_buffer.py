"""A tape gives any rest of what was put on it."""

from hypothesis import given
from hypothesis import strategies as st

from parley.domain.events import Completed, FinishReason, StreamState
from parley.streaming.text_buffer import TextBuffer
from parley.support.wakeup import Wakeup

# Some as long as what a tape keeps together, and longer.
pieces = st.lists(st.text(max_size=6) | st.sampled_from([300, 511, 512, 700]).map("x".__mul__), max_size=12)


@given(pieces)
def test_a_buffer_gives_the_rest_after_any_position(pieces: list[str]) -> None:
    buffer = TextBuffer(1)
    whole = ""
    for piece in ["", *pieces]:
        buffer.append(piece)
        whole += piece
        assert (buffer.length, buffer.text()) == (len(whole), whole)
        for position in {*range(0, len(whole) + 2, 1 + len(whole) // 40), len(whole), len(whole) + 1}:
            assert buffer.after(position) == whole[position:]


@given(pieces, st.data())
def test_a_reader_that_comes_now_and_then_misses_nothing(pieces: list[str], data: st.DataObject) -> None:
    buffer, read = TextBuffer(1), ""
    for piece in pieces:
        buffer.append(piece)
        if data.draw(st.booleans()):
            read += buffer.after(len(read))
    assert read + buffer.after(len(read)) == "".join(pieces)


async def test_a_buffer_wakes_its_listeners_at_all_news() -> None:
    buffer, listeners = TextBuffer(1), [Wakeup(), Wakeup()]
    for wakeup in listeners:
        buffer.listeners.add(wakeup)
    end = Completed(FinishReason.STOP)

    async def notified() -> set[bool]:
        return {await wakeup.wait(0) for wakeup in listeners}

    assert await notified() == {False}
    buffer.append("")
    assert await notified() == {False}
    buffer.append("x")
    assert await notified() == {True}
    buffer.tell(StreamState.RETRYING)
    assert await notified() == {True}
    buffer.finish(end)
    assert await notified() == {True}
    assert (buffer.status, buffer.end, buffer.epoch) == (StreamState.RETRYING, end, 1)
