"""The streams that the browser's tests read too: both decoders must find the same events in them."""

import json
from pathlib import Path

import pytest

from parley.sse import Decoder

FOLDER = Path(__file__).parent
STREAMS = sorted(FOLDER.glob("*.sse"))


@pytest.mark.parametrize("stream", STREAMS, ids=lambda path: path.stem)
def test_the_events_of_a_golden_stream(stream: Path) -> None:
    decoder = Decoder()
    events = [event for byte in stream.read_bytes() for event in decoder.feed(bytes([byte]))]
    found = [
        {"event": event.event, "data": event.data.decode(), "lastEventId": event.last_event_id}
        for event in events
    ]
    assert found == json.loads(stream.with_suffix(".json").read_text())
