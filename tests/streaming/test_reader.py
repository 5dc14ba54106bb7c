"""One reader's stream: exact text from any cursor, however the text came and whatever happens meanwhile."""

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.domain.conversation import LeftOut, Model, Reply, Role, Session, SessionState, Turn
from parley.domain.events import Completed, Cursor, Failed, FinishReason, Source, StreamState, Usage
from parley.domain.ports import ModelRequest
from parley.memory.log import MemoryLog
from parley.streaming.frames import HEARTBEAT
from parley.streaming.generation import Generation
from parley.streaming.reader import Reader, at_end
from parley.streaming.reader_counter import ReaderCounter
from parley.streaming.session_run import SessionRun
from parley.support.sse_decoder import Decoder
from tests.in_memory import until

EPOCH = 1_795_391_262_123
STOP = Completed(FinishReason.STOP, "end_turn", Usage(3, 4))
MODEL = Model("small", "maker", "small-1", "Small", 100, 1000)
SESSION = Session("s", "ada", "c", "m", "r", SessionState.OPEN, False, 0, False, MODEL)

texts = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("\n\r\u2028😀 e\u0301")))


def new_run() -> SessionRun:
    return SessionRun(SESSION, "key", None)


def begin(run: SessionRun, *pieces: str, epoch: int = EPOCH) -> Generation:
    """Have a generation whose tape has these pieces, and the run follow it."""
    generation = Generation("key", epoch, "owner", writing=True)
    run.turn_to(generation)
    for piece in pieces:
        generation.buffer.append(piece)
    return generation


def settle(
    run: SessionRun, text: str, end: Completed | Failed = STOP, *, epoch: int = EPOCH, saved: bool = True
) -> None:
    run.settle(Reply(epoch, text, end), saved=saved)


class Screen:
    """What a client shows, and the events that made it."""

    def __init__(self, text: str = "", cursor: Cursor | None = None) -> None:
        self.text = text
        self.cursor = cursor
        self.events: list[dict[str, Any]] = []
        self.heartbeats = 0
        self._decoder = Decoder()

    def take(self, frames: bytes) -> None:
        self.heartbeats += frames == HEARTBEAT
        for event in self._decoder.feed(frames):
            body = json.loads(event.data)
            self.events.append(body)
            if event.last_event_id:
                self.cursor = Cursor.parse(event.last_event_id)
                assert self.cursor is not None
            if body["type"] == "token":
                self.text += body["content"]
            elif body["type"] == "reset":
                self.text = ""
            if body["type"] in ("token", "reset"):
                assert self.cursor is not None
                assert self.cursor.position == len(self.text)

    def types(self) -> list[str]:
        return [event["type"] for event in self.events]


async def show(
    run: SessionRun, screen: Screen | None = None, *, hinted: bool | None = None, **options: Any
) -> Screen:
    """Read a run to its end from where the screen stands."""
    screen = screen or Screen()
    hinted = screen.cursor is not None if hinted is None else hinted
    reader = Reader(run, screen.cursor, hinted=hinted, **({"heartbeat": 5.0} | options))
    async with asyncio.timeout(30), aclosing(reader.frames()) as frames:
        async for piece in frames:
            screen.take(piece)
    return screen


async def beside(run: SessionRun, acts: Sequence[Callable[[], object]]) -> None:
    """Do one thing after the other, and let the readers see each."""
    for act in acts:
        for _ in range(3):
            await asyncio.sleep(0)
        act()


# -- text -----------------------------------------------------------------------------------------


@given(st.lists(texts, max_size=8), st.integers(0, 8), st.data())
def test_any_text_in_any_chunks_from_any_cursor_is_exact(
    pieces: list[str], already: int, data: st.DataObject
) -> None:
    whole, there = "".join(pieces), "".join(pieces[:already])
    position = data.draw(st.integers(0, len(there)))
    hinted = position > 0 or data.draw(st.booleans())

    async def read() -> Screen:
        run = new_run()
        buffer = begin(run, *pieces[:already]).buffer
        screen = Screen(whole[:position], Cursor(EPOCH, position) if hinted else None)
        acts: list[Callable[[], object]] = [partial(buffer.append, piece) for piece in pieces[already:]]
        acts += [lambda: buffer.finish(STOP), lambda: settle(run, whole)]
        await asyncio.gather(show(run, screen), beside(run, acts))
        return screen

    screen = asyncio.run(read())
    assert screen.text == whole
    assert "reset" not in screen.types()
    assert (screen.types()[0], screen.types()[-1]) == ("start", "done")
    assert screen.cursor == Cursor(EPOCH, len(whole))


@given(texts, st.data())
def test_a_stored_reply_is_exact_from_any_cursor(whole: str, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(whole)))
    run = new_run()
    settle(run, whole)
    screen = asyncio.run(show(run, Screen(whole[:position], Cursor(EPOCH, position))))
    assert screen.text == whole
    rest = ["token"] if whole[position:] else []
    assert screen.types() == ["start", *rest, "done"]


@given(st.lists(texts, min_size=1, max_size=6), st.data())
def test_any_chain_of_disconnects_is_exact(pieces: list[str], data: st.DataObject) -> None:
    whole = "".join(pieces)
    breaks = data.draw(st.lists(st.integers(0, 3), max_size=4))

    async def read() -> Screen:
        run = new_run()
        buffer = begin(run).buffer
        screen = Screen()
        left = list(pieces)
        for frames_to_read in breaks:
            reader = Reader(run, screen.cursor, hinted=screen.cursor is not None, heartbeat=0.0)
            async with aclosing(reader.frames()) as frames:
                for _ in range(frames_to_read):
                    if left:
                        buffer.append(left.pop(0))
                    screen.take(await anext(frames))
                    assert whole.startswith(screen.text)
        for piece in left:
            buffer.append(piece)
        settle(run, whole)
        return await show(run, screen)

    screen = asyncio.run(read())
    assert (screen.text, "reset" in screen.types()) == (whole, False)


async def test_readers_of_one_run_show_the_same_and_leave_nothing_behind() -> None:
    run = new_run()
    buffer = begin(run).buffer
    acts = [lambda: buffer.append("One "), lambda: buffer.append("two"), lambda: settle(run, "One two")]
    *screens, _ = await asyncio.gather(show(run), show(run), show(run), beside(run, acts))
    assert [screen.text for screen in screens] == ["One two"] * 3
    assert not run.listeners
    assert not buffer.listeners


# -- opening --------------------------------------------------------------------------------------


async def test_the_first_frames_come_at_once() -> None:
    run = new_run()
    begin(run)
    run.source = Source.PROVIDER
    frames = Reader(run, None, hinted=False, heartbeat=5).frames()
    screen = Screen()
    screen.take(await anext(frames))
    assert screen.events == [
        {
            "type": "start", "sessionId": "s", "chatId": "c", "messageId": "r", "modelId": "small",
            "source": "provider",
        },
        {"type": "typing"},
    ]  # fmt: skip
    assert screen.cursor == Cursor(EPOCH, 0)
    await frames.aclose()


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize(
    "cursor",
    [
        None,  # the client sent something that is no cursor
        Cursor(EPOCH - 1, 2),
        Cursor(EPOCH + 1, 2),
        Cursor(0, 0),
        Cursor(EPOCH, 4),
        Cursor(EPOCH, 10**11),
    ],
)
async def test_a_cursor_that_does_not_fit_brings_all_after_a_reset(
    cursor: Cursor | None, ended: bool
) -> None:
    run = new_run()
    if not ended:
        begin(run, "One")
    screen = Screen("Other text", cursor)

    async def end() -> None:
        await asyncio.sleep(0 if ended else 0.01)
        settle(run, "One")

    await asyncio.gather(show(run, screen, hinted=True), end())
    assert screen.text == "One"
    assert screen.types() == ["start", "reset", "token", "done"]
    assert screen.events[1]["reason"] == "cursor"


async def test_a_reader_ahead_of_a_follower_s_copy_is_believed_for_a_moment() -> None:
    run = new_run()
    generation = begin(run, "One ")
    generation.writing = False
    screen = Screen("One two", Cursor(EPOCH, 7))
    acts = [lambda: generation.buffer.append("two"), lambda: generation.buffer.append(" three")]
    acts.append(lambda: settle(run, "One two three"))
    await asyncio.gather(show(run, screen), beside(run, acts))
    assert screen.text == "One two three"
    assert "reset" not in screen.types()


def test_a_reader_is_told_what_is_left_out_and_what_more_the_provider_refuses() -> None:
    async def scenario() -> None:
        turns = tuple(
            Turn(Role.ASSISTANT if number % 2 else Role.USER, "word", f"m{number + 1}", number)
            for number in range(2, 9)
        )
        run = SessionRun(SESSION, "key", ModelRequest(MODEL, turns), LeftOut(2, "m3"))
        generation = begin(run)
        early, late = Screen(), Screen()
        early_reader = Reader(run, None, hinted=False, heartbeat=60)
        early.take(early_reader.take())
        generation.buffer.shorten(3)
        generation.buffer.append("Hello")
        early.take(early_reader.take())
        late.take(Reader(run, None, hinted=False, heartbeat=60).take())
        told = {"leftOut": 6, "contextFrom": "m7"}
        assert early.events[0].items() >= {"leftOut": 2, "contextFrom": "m3"}.items()
        assert early.events[2:] == [
            {"type": "status", "state": "shortened"} | told,
            {"type": "token", "content": "Hello"},
        ]
        assert late.events[0].items() >= told.items()
        assert late.types() == ["start", "token"]

    asyncio.run(scenario())


def test_chats_that_share_a_text_are_told_each_of_its_own_messages() -> None:
    async def scenario() -> None:
        shared = []
        for chat in ("one", "two"):
            turns = tuple(Turn(Role.USER, "word", f"{chat}-{number}", number) for number in range(3))
            run = SessionRun(SESSION, "key", ModelRequest(MODEL, turns))
            shared.append((run, Reader(run, None, hinted=False, heartbeat=60), Screen()))
        generation = begin(shared[0][0])
        shared[1][0].turn_to(generation)
        for _, reader, screen in shared:
            screen.take(reader.take())
        generation.buffer.shorten(1)
        for chat, (run, reader, screen) in zip(("one", "two"), shared, strict=True):
            told = {"leftOut": 2, "contextFrom": f"{chat}-2"}
            screen.take(reader.take())
            assert "leftOut" not in screen.events[0]
            assert screen.events[-1] == {"type": "status", "state": "shortened"} | told
            late = Screen()
            late.take(Reader(run, None, hinted=False, heartbeat=60).take())
            assert late.events[0].items() >= told.items()

    asyncio.run(scenario())


def test_a_cursor_is_at_the_end_where_the_reply_is_whole() -> None:
    reply = Reply(EPOCH, "é😀", STOP)
    assert at_end(reply, Cursor(EPOCH, 2))
    assert not any(
        at_end(reply, cursor) for cursor in (None, Cursor(EPOCH, 1), Cursor(EPOCH, 3), Cursor(1, 2))
    )


# -- what happens meanwhile -----------------------------------------------------------------------


async def test_a_new_epoch_begins_with_a_reset() -> None:
    run = new_run()
    first = begin(run, "Lost")
    acts = [
        first.lose,
        lambda: begin(run, "Whole", epoch=EPOCH + 1),
        lambda: settle(run, "Whole.", epoch=EPOCH + 1),
    ]
    screen = Screen()
    await asyncio.gather(show(run, screen), beside(run, acts))
    assert screen.types() == ["start", "token", "reset", "token", "token", "done"]
    assert screen.events[2]["reason"] == "restarted"
    assert (screen.text, screen.cursor) == ("Whole.", Cursor(EPOCH + 1, 6))


async def test_a_reply_that_was_saved_elsewhere_with_less_text_resets() -> None:
    run = new_run()
    buffer = begin(run, "One two three").buffer
    acts = [lambda: settle(run, "One", Completed(FinishReason.STOPPED))]
    screen = Screen()
    await asyncio.gather(show(run, screen), beside(run, acts))
    assert screen.text == "One"
    assert screen.events[-1]["finishReason"] == "stopped"
    assert not buffer.listeners


async def test_a_stopped_run_shows_no_more_than_it_saves() -> None:
    run = new_run()
    buffer = begin(run, "One ").buffer

    def stop() -> None:
        run.limit = buffer.length
        buffer.append("two")

    screen = Screen()
    acts = [stop, lambda: buffer.append("!"), lambda: settle(run, "One ", Completed(FinishReason.STOPPED))]
    await asyncio.gather(show(run, screen), beside(run, acts))
    assert screen.types() == ["start", "token", "done"]
    assert screen.text == "One "


async def test_retries_are_told_until_there_is_text() -> None:
    run = new_run()
    buffer = begin(run).buffer
    acts = [
        lambda: buffer.tell(StreamState.RETRYING),
        lambda: buffer.append("x"),
        lambda: buffer.tell(StreamState.FALLBACK),
        lambda: settle(run, "x"),
    ]
    screen = Screen()
    await asyncio.gather(show(run, screen), beside(run, acts))
    assert screen.types() == ["start", "typing", "status", "token", "done"]
    assert screen.events[2]["state"] == "retrying"


@pytest.mark.parametrize("saved", [True, False])
async def test_a_run_s_end_is_the_last_event(saved: bool) -> None:
    run = new_run()
    settle(run, "x", saved=saved)
    assert (await show(run)).events[-1] == {
        "type": "done", "finishReason": "stop", "messageId": "r", "saved": saved,
        "usage": {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7},
    }  # fmt: skip
    run = new_run()
    settle(run, "x", Failed("busy", "Busy.", retryable=True, retry_after_ms=1500), saved=saved)
    assert (await show(run)).events[-1] == {
        "type": "error", "code": "busy", "message": "Busy.", "retryable": True, "retryAfterMs": 1500,
        "saved": saved,
    }  # fmt: skip


# -- time -----------------------------------------------------------------------------------------


async def test_silence_is_filled_with_heartbeats() -> None:
    run = new_run()

    async def happen() -> None:
        await until(lambda: screen.heartbeats == 1)
        buffer = begin(run).buffer
        await until(lambda: screen.types().count("status") == 2)
        buffer.append("x")
        await until(lambda: screen.heartbeats == 2)
        settle(run, "x")

    screen = Screen()
    await asyncio.gather(show(run, screen, heartbeat=0.02), happen())
    # While there is no text, a heartbeat tells for how long the model has been at it.
    kinds = screen.types()
    assert [kind for kind in kinds if kind != "status"] == ["start", "typing", "token", "done"]
    assert kinds.index("status") == 2
    assert kinds.index("token") == len(kinds) - 2
    thinking = [event for event in screen.events if event["type"] == "status"]
    assert {event["state"] for event in thinking} == {"thinking"}
    elapsed = [event["elapsedMs"] for event in thinking]
    assert elapsed == sorted(elapsed)
    assert elapsed[0] > 0


async def test_nobody_thinks_while_the_next_attempt_is_waited_for() -> None:
    run = new_run()

    async def happen() -> None:
        buffer = begin(run).buffer
        buffer.tell(StreamState.RETRYING)
        await until(lambda: screen.heartbeats == 2)
        buffer.waits = False
        await until(lambda: screen.types().count("status") == 3)
        settle(run, "x")

    screen = Screen()
    await asyncio.gather(show(run, screen, heartbeat=0.02), happen())
    states = [event["state"] for event in screen.events if event["type"] == "status"]
    assert states[0] == "retrying"
    assert states[1:] == ["thinking"] * len(states[1:])


async def test_a_stream_breaks_off_without_an_end_at_its_limit() -> None:
    loop = asyncio.get_running_loop()
    for ready in (False, True):
        run = new_run()
        if ready:
            begin(run, "x")
        begun = loop.time()
        screen = await show(run, until=begun + 0.05)
        assert loop.time() - begun > 0.04
        assert screen.types() == (["start", "token"] if ready else [])
        assert screen.heartbeats <= 1


async def test_a_reader_that_leaves_ends_its_stream() -> None:
    run = new_run()
    buffer = begin(run, "x").buffer
    reader = Reader(run, None, hinted=False, heartbeat=0.02)
    frames = reader.frames()
    assert [await anext(frames), await anext(frames)]
    reader.leave()
    assert [piece async for piece in frames] == []
    assert not run.listeners
    assert not buffer.listeners


@pytest.mark.parametrize("ready", [True, False])
async def test_a_reader_that_leaves_while_it_waits_ends_its_stream(ready: bool) -> None:
    run = new_run()
    if ready:
        begin(run, "x")
    reader = Reader(run, None, hinted=False, heartbeat=5)

    async def read() -> list[bytes]:
        return [piece async for piece in reader.frames()]

    reading = asyncio.create_task(read())
    await asyncio.sleep(0.01)
    assert not reading.done()
    reader.leave()
    assert len(await asyncio.wait_for(reading, 30)) == ready


async def test_a_reader_that_leaves_before_it_saw_a_new_epoch_hangs_nowhere() -> None:
    run = new_run()
    first = begin(run, "x").buffer
    reader = Reader(run, None, hinted=False, heartbeat=5)
    reader.begin(lambda: None)
    reader.take()
    second = begin(run, "y", epoch=EPOCH + 1).buffer
    reader.leave()
    await asyncio.sleep(0)
    assert not any(len(listeners) for listeners in (run.listeners, first.listeners, second.listeners))


@pytest.mark.parametrize("ready", [True, False], ids=["text", "nothing yet"])
async def test_a_reader_that_is_let_go_ends_without_an_end(ready: bool) -> None:
    run = new_run()
    if ready:
        begin(run, "x")
    reader = Reader(run, None, hinted=False, heartbeat=5)
    screen = Screen()

    async def read() -> None:
        async for piece in reader.frames():
            screen.take(piece)

    reading = asyncio.create_task(read())
    await until(lambda: bool(run.listeners))
    await asyncio.sleep(0.01)
    assert not reading.done()
    reader.let_go()
    await asyncio.wait_for(reading, 30)
    assert screen.types() == (["start", "token"] if ready else [])
    assert reader.is_let_go
    assert not run.listeners


async def test_a_reader_that_rests_between_two_words_can_be_let_go() -> None:
    run = new_run()
    run.source = Source.CACHE
    begin(run, "one two three")
    reader = Reader(run, None, hinted=False, heartbeat=5, pace=0.001)
    woken = asyncio.Event()
    reader.begin(woken.set)
    screen = Screen()
    await woken.wait()
    screen.take(reader.take())
    assert reader.take() == b""
    woken.clear()
    reader.let_go()
    await woken.wait()
    screen.take(reader.take())
    assert reader.over
    assert "one two three".startswith(screen.text)


async def test_a_reader_that_is_let_go_at_the_end_gets_the_end() -> None:
    run = new_run()
    begin(run, "x").buffer.finish(STOP)
    reader = Reader(run, None, hinted=False, heartbeat=5)
    reader.begin(lambda: None)
    settle(run, "x")
    reader.let_go()
    screen = Screen()
    screen.take(reader.take())
    assert reader.over
    assert screen.types() == ["start", "token", "done"]


async def test_readers_are_counted_from_their_beginning_to_their_end() -> None:
    counter = ReaderCounter(MemoryLog(lease_seconds=5, cache_seconds=60), limit=2, every=5)
    run = new_run()
    begin(run, "x")

    def new_reader() -> Reader:
        return Reader(run, None, hinted=False, heartbeat=5, counter=counter)

    first, second, third, fourth, unread = (new_reader() for _ in range(5))
    for reader in (first, second):
        reader.begin(lambda: None)
    first.leave()
    # One that never began, as for HEAD, has no place.
    unread.leave()
    third.begin(lambda: None)
    assert not second.is_let_go
    fourth.begin(lambda: None)
    assert [reader.is_let_go for reader in (second, third, fourth)] == [True, False, False]
    second.take()
    settle(run, "x")
    for reader in (third, fourth):
        reader.take()
        assert reader.over
    assert counter._sessions == {}
    await counter.close()


@given(texts)
def test_a_paced_hit_is_exact(whole: str) -> None:
    run = new_run()
    run.source = Source.CACHE
    begin(run, whole).buffer.finish(STOP)
    settle(run, whole)
    screen = asyncio.run(show(run, pace=1e9))
    assert screen.text == whole


async def test_a_pace_slows_nobody_who_comes_back() -> None:
    run = new_run()
    run.source = Source.CACHE
    settle(run, "one two three")
    screen = await show(run, Screen("one ", Cursor(EPOCH, 4)), pace=0.1)
    assert (screen.text, screen.types().count("token")) == ("one two three", 1)


async def test_a_pace_slows_hits_only() -> None:
    loop = asyncio.get_running_loop()
    whole = "one two three four five"
    for source, tokens in ((Source.CACHE, 5), (Source.PROVIDER, 1)):
        run = new_run()
        run.source = source
        settle(run, whole)
        begun = loop.time()
        screen = await show(run, pace=100)
        assert screen.text == whole
        assert screen.types().count("token") == tokens
        if source is Source.CACHE:
            assert loop.time() - begun > 0.035
