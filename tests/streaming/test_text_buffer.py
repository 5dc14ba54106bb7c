"""A tape gives any rest of what was put on it."""

from hypothesis import given
from hypothesis import strategies as st

from parley.domain.events import Completed, FinishReason, StreamState
from parley.streaming.text_buffer import Tape
from parley.support.wakeup import Bell

# Some as long as what a tape keeps together, and longer.
pieces = st.lists(st.text(max_size=6) | st.sampled_from([300, 511, 512, 700]).map("x".__mul__), max_size=12)


@given(pieces)
def test_any_rest_of_any_appends(pieces: list[str]) -> None:
    tape = Tape(1)
    whole = ""
    for piece in ["", *pieces]:
        tape.append(piece)
        whole += piece
        assert (tape.length, tape.text()) == (len(whole), whole)
        for position in {*range(0, len(whole) + 2, 1 + len(whole) // 40), len(whole), len(whole) + 1}:
            assert tape.after(position) == whole[position:]


@given(pieces, st.data())
def test_a_reader_that_comes_now_and_then_misses_nothing(pieces: list[str], data: st.DataObject) -> None:
    tape, read = Tape(1), ""
    for piece in pieces:
        tape.append(piece)
        if data.draw(st.booleans()):
            read += tape.after(len(read))
    assert read + tape.after(len(read)) == "".join(pieces)


async def test_all_news_ring() -> None:
    tape, bells = Tape(1), [Bell(), Bell()]
    for bell in bells:
        tape.bells.add(bell)
    end = Completed(FinishReason.STOP)

    async def rung() -> set[bool]:
        return {await bell.wait(0) for bell in bells}

    assert await rung() == {False}
    tape.append("")
    assert await rung() == {False}
    tape.append("x")
    assert await rung() == {True}
    tape.tell(StreamState.RETRYING)
    assert await rung() == {True}
    tape.finish(end)
    assert await rung() == {True}
    assert (tape.status, tape.end, tape.epoch) == (StreamState.RETRYING, end, 1)
