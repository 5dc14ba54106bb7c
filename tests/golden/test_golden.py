"""The streams that the browser's tests read too: the server writes them, both decoders read the same."""

import json
from pathlib import Path

import pytest

from parley.domain.events import Completed, Cursor, Failed, FinishReason, Source, StreamState, Usage
from parley.streaming.frames import (
    HEARTBEAT,
    TYPING,
    done_frame,
    error_frame,
    reset_frame,
    start_frame,
    status_frame,
    token_frames,
)
from parley.support.sse_decoder import Decoder

FOLDER = Path(__file__).parent
STREAMS = sorted(FOLDER.glob("*.sse"))
EPOCH, LATER = 1_795_391_262_123, 1_795_391_271_123
STOP = Completed(FinishReason.STOP, "stop", Usage(12, 5))
AWAY = Failed("provider_unavailable", "The model cannot be reached right now.", True, 4000)


def start(position: int = 0, source: Source = Source.PROVIDER) -> bytes:
    return start_frame(
        Cursor(EPOCH, position),
        session_id="s1",
        chat_id="c1",
        message_id="m2",
        model_id="demo",
        source=source,
    )


def tokens(*pieces: str, epoch: int = EPOCH, position: int = 0) -> bytes:
    frames = []
    for piece in pieces:
        position += len(piece)
        frames.append(token_frames(epoch, position, piece))
    return b"".join(frames)


def done(end: Completed = STOP, *, saved: bool = True) -> bytes:
    return done_frame(end, message_id="m2", saved=saved)


FORGERIES = (
    '\n\ndata: {"type":"done"}\n\n', "a\rb\r\nc", "\u2028\u2029\x85", "</script><script>", "👩‍👩‍👧",
    "id: 9-9\nevent: x",
)  # fmt: skip

WRITTEN = {
    "reply": start() + TYPING + tokens("Hello", ",") + HEARTBEAT + tokens(" world!", position=6) + done(),
    "cached": start(0, Source.CACHE) + tokens("Hello, world!") + done(Completed(FinishReason.STOP)),
    "resumed": start(6, Source.JOINED) + tokens(" world!", position=6) + done(),
    "stopped": start() + TYPING + tokens("Half") + done(Completed(FinishReason.STOPPED)),
    "unsaved": start() + tokens("Text") + done(saved=False),
    "failed": start() + TYPING + status_frame(StreamState.RETRYING) + error_frame(AWAY, saved=True),
    "reset": start() + TYPING + tokens("Lost wo") + reset_frame(Cursor(LATER, 0), "restarted")
    + tokens("Whole.", epoch=LATER) + done(),
    "forged": start() + tokens(*FORGERIES) + done(),
    # The connection was cut in the middle of a frame.
    "dropped": (start() + TYPING + tokens("Hello", " broken")).partition(b'ent":" broken')[0],
}  # fmt: skip


@pytest.mark.parametrize("stream", STREAMS, ids=lambda path: path.stem)
def test_the_events_of_a_golden_stream(stream: Path) -> None:
    decoder = Decoder()
    events = [event for byte in stream.read_bytes() for event in decoder.feed(bytes([byte]))]
    found = [
        {"event": event.event, "data": event.data.decode(), "lastEventId": event.last_event_id}
        for event in events
    ]
    assert found == json.loads(stream.with_suffix(".json").read_text())


@pytest.mark.parametrize("name", WRITTEN)
def test_the_server_writes_a_golden_stream(name: str) -> None:
    assert (FOLDER / f"{name}.sse").read_bytes() == WRITTEN[name]


def test_every_golden_stream_is_the_server_s_but_the_foreign_one() -> None:
    assert {stream.stem for stream in STREAMS} - set(WRITTEN) == {"foreign"}
