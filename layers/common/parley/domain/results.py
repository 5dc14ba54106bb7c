"""Holds the results of store and log calls, and the text that a writer sends to its log."""

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct

from parley.domain.conversation import Reply
from parley.domain.events import End


class Attached(Struct, frozen=True):
    """The session now follows the epoch that the caller named."""


class Overtaken(Struct, frozen=True):
    """Another epoch has the session, so the caller's epoch may write nothing."""

    epoch: int


class Ended(Struct, frozen=True):
    """The session ended earlier with this reply, which every reader is shown."""

    reply: Reply


class Stopping(Struct, frozen=True):
    """A stop was requested, and no reply is saved yet. `disabled`: the session's user is disabled."""

    disabled: bool


class Stop(Struct, frozen=True):
    """The state that a stop request found. `generation_key` is set while a process may be writing."""

    ended: bool
    leased: bool
    generation_key: str | None
    epoch: int


class LeaseStatus(Struct, frozen=True):
    """The state of one session, as its process learns it when it renews the lease."""

    session_id: str
    overtaken: bool
    ended: bool
    stopping: bool
    disabled: bool


class Saved(Struct, frozen=True):
    """The reply is stored."""


class Orphan(Struct, frozen=True):
    """A session whose writers and readers are all gone. The log may still have its reply."""

    session_id: str
    generation_key: str | None
    epoch: int
    stopping: bool


class Hit(Struct, frozen=True):
    """The generation ended well, with this reply."""

    reply: Reply


class Write(Struct, frozen=True):
    """The caller is the writer of epoch `epoch`. `takeover` says that an earlier writer died."""

    epoch: int
    takeover: bool


class Wait(Struct, frozen=True):
    """There is no log, but the store knows a writer. The log will come back, or the writer is gone."""


class Append(NamedTuple):
    """A writer's new text for its log: `text` brings the reply of `epoch` to `position`.

    `whole` is the text so far, for a log that was lost meanwhile.
    """

    key: str
    epoch: int
    owner: str
    position: int
    text: str
    whole: Sequence[str]


class ReaderCount(NamedTuple):
    """What a process knows of one session's readers.

    `here` are its readers as id and arrival, oldest first; the arrival is 0 until the log has given one.
    `left` are ids of readers that have left.
    """

    session_id: str
    here: Sequence[tuple[str, int]]
    left: Sequence[str]


class Flushed(Struct, frozen=True):
    """The log took the text.

    `stops` are the sessions that asked to stop. `attached` counts the other sessions, in all processes.
    """

    stops: frozenset[str]
    attached: int


class Fenced(Struct, frozen=True):
    """The log has a later epoch, or another writer, and wrote nothing."""


class Slice(Struct, frozen=True):
    """The log's content after a position. `alive` says that the log's writer holds the lease.

    `superseded` says that the requested epoch is gone: a later epoch began before its end, or the log was
    lost.
    """

    text: str
    end: End | None
    alive: bool
    superseded: bool
    stops: frozenset[str]


class Follow(Struct, frozen=True):
    """Another process is writing epoch `epoch`. `begun` is the log's content, if the caller asked for it."""

    epoch: int
    begun: Slice | None = None
