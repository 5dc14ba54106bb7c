"""The wire: frames that nothing can forge, and a decoder that is the standard's, whatever the chunks."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from parley.support.sse_decoder import Decoder, EventTooLong, ServerEvent

NASTY = (
    '\n\ndata: {"type":"done"}\n\n',
    "\r",
    "\r\n",
    "\u2028",
    "\u2029",
    "\x85",
    "\x0b",
    "</script>",
    "id: 9-9",
    "😀",
)


def reference(stream: bytes) -> list[ServerEvent]:
    """Interpret a whole event stream by the letter of the HTML standard, 9.2.6, one character at a time."""
    text = stream.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    lines, line, at = [], "", 0
    while at < len(text):
        if text[at] in "\r\n":
            at += 2 if text[at : at + 2] == "\r\n" else 1
            lines.append(line)
            line = ""
        else:
            line += text[at]
            at += 1
    events, data, kind, last_id = [], "", "", ""
    for line in lines:
        if not line:
            if data:
                body = data.removesuffix("\n").encode("utf-8", "surrogateescape")
                events.append(ServerEvent(shown(kind) or "message", body, shown(last_id)))
            data, kind = "", ""
            continue
        if line.startswith(":"):
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            kind = value
        elif field == "data":
            data += value + "\n"
        elif field == "id" and "\0" not in value:
            last_id = value
    return events


def shown(value: str) -> str:
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def decode(chunks: list[bytes]) -> list[ServerEvent]:
    decoder = Decoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


lines = st.one_of(
    st.sampled_from(
        ["data", "data:", "data: ", "id", "id:", "event: x", "retry: 5", ":", ": note", "", "", " data: a"]
    ),
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["data", "event", "id", "retry", "da", "\ufeffdata", ""]),
        st.sampled_from([":", ": ", ":  ", ""]),
        st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=8),
    ),
)
streams = st.lists(st.tuples(lines, st.sampled_from(["\n", "\r", "\r\n"])), max_size=30).map(
    lambda pairs: "".join(line + end for line, end in pairs).encode()
)
marks = st.sampled_from([b"", b"\xef\xbb\xbf", b"\xef\xbb\xbf\xef\xbb\xbf", b"\xef\xbb"])
places = st.lists(st.integers(0, 10_000), max_size=40)


@given(marks, streams, places)
def test_equals_the_standard_in_any_chunks(mark: bytes, stream: bytes, places: list[int]) -> None:
    assert decode(cut(mark + stream, places)) == reference(mark + stream)


@given(st.binary(max_size=200), places)
def test_the_decoder_takes_any_bytes(stream: bytes, places: list[int]) -> None:
    assert decode(cut(stream, places)) == reference(stream)


@given(streams)
def test_equals_the_standard_byte_by_byte(stream: bytes) -> None:
    assert decode([stream[at : at + 1] for at in range(len(stream))]) == reference(stream)


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [("message", b"YHOO\n+2\n10", "")]),
        (b": test\n\ndata: 1\nid: 1\n\ndata:2\nid\n\n", [("message", b"1", "1"), ("message", b"2", "")]),
        (b"data:  3\n\n", [("message", b" 3", "")]),
        (b"data\n\ndata\ndata\n\ndata:", [("message", b"", ""), ("message", b"\n", "")]),
        (b"data:test\n\ndata: test\n\n", [("message", b"test", ""), ("message", b"test", "")]),
        (b"event: add\r\ndata: a\r\n\r\nevent: x\n\ndata: b\r\r", [("add", b"a", ""), ("message", b"b", "")]),
        ("data: a\u2028b\x85c\x0bd\n\n".encode(), [("message", "a\u2028b\x85c\x0bd".encode(), "")]),
        (b"id: 7\n\ndata: a\n\nid: x\0y\ndata: b\n\n", [("message", b"a", "7"), ("message", b"b", "7")]),
        (b"data: unfinished\n", []),
    ],
)  # fmt: skip
def test_the_decoder_reads_the_standard_s_examples(
    stream: bytes, expected: list[tuple[str, bytes, str]]
) -> None:
    assert decode([stream]) == [ServerEvent(*event) for event in expected]


def test_the_decoder_takes_only_numbers_for_a_retry() -> None:
    decoder = Decoder()
    decoder.feed(b"retry: 10\nretry: 1x\nretry: -1\nretry:\n" + b"retry: " + b"9" * 5000 + b"\n")
    assert decoder.retry_ms == 10
    assert not decoder.strange


def test_notices_what_is_no_event_stream() -> None:
    decoder = Decoder()
    decoder.feed(b": a comment\nevent: x\n")
    assert not decoder.strange
    decoder.feed(b"<html>\n")
    assert decoder.strange


@pytest.mark.parametrize("chunk", [b"data: " + b"x" * 64, b"data: x\n" * 40])
def test_the_decoder_bounds_an_event(chunk: bytes) -> None:
    with pytest.raises(EventTooLong):
        feed_slowly(Decoder(limit=50), chunk)


def feed_slowly(decoder: Decoder, data: bytes) -> None:
    for at in range(0, len(data), 16):
        decoder.feed(data[at : at + 16])


def test_the_bound_is_each_event_s() -> None:
    decoder = Decoder(limit=50)
    assert len([event for _ in range(100) for event in decoder.feed(b"data: " + b"x" * 40 + b"\n\n")]) == 100


def test_feeding_a_long_event_is_linear() -> None:
    decoder = Decoder(limit=1 << 20)
    for _ in range(200_000):
        decoder.feed(b"x")
    assert decoder.feed(b"\n\n") == []


@pytest.mark.parametrize("content", NASTY)
def test_no_token_forges_a_frame(content: str) -> None:
    frame = token_frames(1, 42, content)
    assert frame.endswith(b"\n\n")
    assert frame.count(b"\n") == 3
    assert b"\r" not in frame
    (event,) = Decoder().feed(frame)
    assert event.last_event_id == "1-42"
    assert json.loads(event.data) == {"type": "token", "content": content}


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_token_arrives_as_it_was(content: str) -> None:
    (event,) = Decoder().feed(token_frames(3, 9, content))
    assert json.loads(event.data)["content"] == content


@given(st.text(st.sampled_from("a\n\x1f\u2028\u2029\x85é問😀"), max_size=12), st.integers(1, 5_000))
def test_a_long_text_comes_in_frames_that_every_client_takes(piece: str, times: int) -> None:
    content = (piece or "x") * times
    position = 1_000_000 + len(content)
    frames = token_frames(3, position, content)
    events = Decoder().feed(frames)
    assert "".join(json.loads(event.data)["content"] for event in events) == content
    assert events[-1].last_event_id == f"3-{position}"
    at = 1_000_000
    for event in events:
        at += len(json.loads(event.data)["content"])
        assert event.last_event_id == f"3-{at}"
        assert len(event.data) < 32 * 1024 - 100
    # Also a client that takes every separator of Unicode for the end of a line reads the same lines.
    assert frames.decode().splitlines() == frames.decode().split("\n")[:-1]


@pytest.mark.parametrize("text", NASTY)
def test_no_text_of_an_error_ends_a_line(text: str) -> None:
    frame = error_frame(Failed("x", text, retryable=False), saved=True)
    assert len(frame.decode().splitlines()) == 2
    assert json.loads(Decoder().feed(frame)[0].data)["message"] == text


def test_frames_are_events_as_the_protocol_has_them() -> None:
    start = start_frame(
        Cursor(2, 5), session_id="s", chat_id="c", message_id="m", model_id="x", source=Source.CACHE
    )
    assert start == (
        b'id: 2-5\ndata: {"type":"start","sessionId":"s","chatId":"c",'
        b'"messageId":"m","modelId":"x","source":"cache"}\n\n'
    )
    assert status_frame(StreamState.RETRYING) == b'data: {"type":"status","state":"retrying"}\n\n'
    assert reset_frame(Cursor(3, 0), "takeover") == b'id: 3-0\ndata: {"type":"reset","reason":"takeover"}\n\n'
    end = Completed(FinishReason.STOP, "stop", Usage(3, 4))
    assert json.loads(Decoder().feed(done_frame(end, message_id="m", saved=True))[0].data) == {
        "type": "done",
        "finishReason": "stop",
        "usage": {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7},
        "messageId": "m",
        "saved": True,
    }
    failed = Failed("provider_overloaded", "Busy.", retryable=True, retry_after_ms=1500)
    assert json.loads(Decoder().feed(error_frame(failed, saved=False))[0].data) == {
        "type": "error",
        "code": "provider_overloaded",
        "message": "Busy.",
        "retryable": True,
        "retryAfterMs": 1500,
        "saved": False,
    }
    assert Decoder().feed(HEARTBEAT) == []
    assert Decoder().feed(TYPING) == [ServerEvent("message", b'{"type":"typing"}', "")]
