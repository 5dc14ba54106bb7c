"""What a session is charged that leaves a generation."""

import pytest

from parley.domain.events import Completed, End, Failed, FinishReason, Spent, Usage
from parley.streaming.generation import Generation

_STOPPED = Completed(FinishReason.STOPPED)


@pytest.mark.parametrize(
    ("whole", "spent"),
    [
        # Its generation goes on: an estimate of twelve characters.
        (None, Spent(None, 3)),
        # It ended before the session was saved, and the writer knew nothing of the stop.
        (Completed(FinishReason.STOP, "stop", Usage(7, 120)), Spent(7, 120)),
        (Completed(FinishReason.TRUNCATED, spent=Spent(None, 90)), Spent(None, 90)),
        (Failed("provider_interrupted", "Cut.", retryable=True, spent=Spent(7, 80)), Spent(7, 80)),
        # An end from a process that knew the text alone.
        (Completed(FinishReason.TRUNCATED), Spent(None, 3)),
    ],
)
def test_a_stop_is_charged_the_whole_where_the_end_is_known_by_then(whole: End | None, spent: Spent) -> None:
    generation = Generation("key", 1, "owner", writing=False)
    generation.buffer.append("Twelve chars")
    if whole is not None:
        generation.buffer.finish(whole)
    assert generation.charged(_STOPPED).spent == spent


def test_a_whole_count_is_charged_as_it_is() -> None:
    generation = Generation("key", 1, "owner", writing=True)
    end = Completed(FinishReason.STOP, "stop", Usage(7, 120))
    assert generation.charged(end) is end
