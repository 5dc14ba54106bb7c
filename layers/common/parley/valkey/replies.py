"""Converts the replies of the log's Lua scripts into results."""

import functools
from collections.abc import Sequence
from typing import Any

from parley.domain.results import Fenced, Flushed, Slice
from parley.support.logs import logger
from parley.valkey.codec import end_of_bytes
from parley.valkey.macs import Macs

_logger = logger("valkey")


def flushed_of(reply: Any) -> Flushed | Fenced | None:
    """Return the result of a write. Returns None, and logs a line, for an error or an invalid reply."""
    # The fast path: almost every reply is this one, once for each token of each stream.
    if type(reply) is list and reply[:2] == [b"ok", []] and len(reply) == 3 and type(reply[2]) is int:
        return _attached(reply[2])
    match reply:
        case [b"fenced"]:
            return Fenced()
        case [b"ok", list(stops), int(attached)] if all(isinstance(stop, bytes) for stop in stops):
            return Flushed(frozenset(stop.decode("utf-8", "replace") for stop in stops), attached)
    _logger.warning("log_refused", extra={"error": getattr(reply, "code", "nonsense")})
    return None


@functools.lru_cache(maxsize=256)
def _attached(count: int) -> Flushed:
    return Flushed(frozenset(), count)


def arrivals_of(reply: Any, readers: int) -> list[int] | None:
    """Return the arrivals of so many readers. Returns None, and logs a line, for any other reply."""
    if type(reply) is list and len(reply) == readers and all(type(arrival) is int for arrival in reply):
        return reply
    _logger.warning("log_refused", extra={"error": getattr(reply, "code", "nonsense")})
    return None


def begun_of(reply: Sequence[Any], key: str, epoch: int, macs: Macs) -> Slice | None:
    """Return the log's content at the join, or None if it is missing or invalid: the reader then reads it."""
    if not reply:
        return None
    try:
        rows, stops, alive = reply
        return slice_of(rows, stops, alive, key, epoch, 0, macs)
    except (ValueError, TypeError, AttributeError):
        return None


def ended(reply: Sequence[Any]) -> bool:
    """Tell whether the log's content at the join has a terminal entry, whoever wrote it."""
    match reply:
        case [[*_, [_, [b"e", *_]]], *_]:
            return True
    return False


def slice_of(
    rows: Sequence[Any],
    stops: Sequence[bytes],
    alive: Any,
    key: str,
    epoch: int,
    position: int,
    macs: Macs,
) -> Slice:
    """Join the entries after `position`. Entries written twice overlap, and the overlap is cut.

    Raises `ValueError` for an entry whose MAC does not fit and for a hole, and `ValueError`, `TypeError` or
    `AttributeError` for invalid replies.
    """
    names = frozenset(member.decode() for member in stops)
    pieces: list[str] = []
    end = None
    for entry_id, (name, value, *rest) in rows:
        if name not in (b"t", b"e"):
            continue
        # An entry's id has the position that the text reaches, not the one where it begins.
        upto = int(entry_id.partition(b"-")[2])
        if len(rest) != 2 or not macs.verify(rest[1], name, key, epoch, upto, value):
            raise ValueError("an entry of nobody's")
        if name == b"e":
            # The end stands one behind the text: where the last text is missing, it is a hole too.
            if upto != position + 1:
                raise ValueError("the log has a hole")
            end = end_of_bytes(value)
            continue
        text = value.decode()
        begin = upto - len(text)
        if begin > position:
            raise ValueError("the log has a hole")
        if upto > position:
            pieces.append(text[position - begin :])
            position = upto
    return Slice("".join(pieces), end, bool(alive), False, names)
