"""What the log's scripts answer, made into values."""

import functools
from collections.abc import Sequence
from typing import Any

from parley.domain.results import Fenced, Flushed, Slice
from parley.support.logs import logger
from parley.valkey.codec import end_of_bytes

_logger = logger("valkey")


def flushed_of(answer: Any) -> Flushed | Fenced | None:
    """Return what became of a write; None, and a line in the log, for a refusal or nonsense."""
    # Nearly every answer, at every token of every stream: nobody stops.
    if type(answer) is list and answer[:2] == [b"ok", []] and len(answer) == 3 and type(answer[2]) is int:
        return _attached(answer[2])
    match answer:
        case [b"fenced"]:
            return Fenced()
        case [b"ok", list(stops), int(attached)] if all(isinstance(stop, bytes) for stop in stops):
            return Flushed(frozenset(stop.decode("utf-8", "replace") for stop in stops), attached)
    _logger.warning("log_refused", extra={"error": getattr(answer, "code", "nonsense")})
    return None


@functools.lru_cache(maxsize=256)
def _attached(count: int) -> Flushed:
    return Flushed(frozenset(), count)


def begun_of(answer: Sequence[Any]) -> Slice | None:
    """Return what a log had when it was joined; what cannot be read is left to who reads on."""
    if not answer:
        return None
    try:
        rows, stops, alive = answer
        return slice_of(rows, stops, alive, 0)
    except (ValueError, TypeError, AttributeError):
        return None


def slice_of(rows: Sequence[Any], stops: Sequence[bytes], alive: Any, position: int) -> Slice:
    """Put the entries after `position` together; one that was written twice overlaps, and is cut.

    Raises `ValueError`, `TypeError` or `AttributeError` for nonsense.
    """
    names = frozenset(member.decode() for member in stops)
    pieces: list[str] = []
    end = None
    for entry_id, (name, value) in rows:
        if name == b"e":
            end = end_of_bytes(value)
        elif name == b"t":
            text = value.decode()
            upto = int(entry_id.partition(b"-")[2])
            begin = upto - len(text)
            if begin > position:
                raise ValueError("the log has a hole")
            if upto > position:
                pieces.append(text[position - begin :])
                position = upto
    return Slice("".join(pieces), end, bool(alive), False, names)
