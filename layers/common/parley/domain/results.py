"""What stores and logs answer, and what a writer tells its log."""

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct

from parley.domain.conversation import Reply
from parley.domain.events import End


class Attached(Struct, frozen=True):
    """The session now follows the epoch that the caller named."""


class Overtaken(Struct, frozen=True):
    """Another epoch has the session: the caller's may write nothing."""

    epoch: int


class Ended(Struct, frozen=True):
    """The session ended before, with this reply; whoever shows it shows this."""

    reply: Reply


class Stopping(Struct, frozen=True):
    """Somebody asked to stop the session, and no reply was saved yet; `disabled` is about its user."""

    disabled: bool


class Stop(Struct, frozen=True):
    """What a request to stop found. `generation_key` is there while some process may be writing."""

    ended: bool
    leased: bool
    generation_key: str | None
    epoch: int


class LeaseStatus(Struct, frozen=True):
    """What a process learns of one of its sessions when it vouches for it."""

    session_id: str
    overtaken: bool
    ended: bool
    stopping: bool
    disabled: bool


class Saved(Struct, frozen=True):
    """The reply is stored."""


class Orphan(Struct, frozen=True):
    """A session whose writers and readers are all gone; its reply is wherever the log has it."""

    session_id: str
    generation_key: str | None
    epoch: int
    stopping: bool


class Hit(Struct, frozen=True):
    """The generation ended well: here is all of it."""

    reply: Reply


class Write(Struct, frozen=True):
    """The caller is the writer of epoch `epoch`; `takeover` says that an earlier writer died."""

    epoch: int
    takeover: bool


class Wait(Struct, frozen=True):
    """There is no log, though the store says that somebody is writing: it will be back, or not."""


class Append(NamedTuple):
    """A writer's news for its log: `text`, which brings the reply of `epoch` to `position`.

    `whole` is all the text so far, for a log that was lost meanwhile.
    """

    key: str
    epoch: int
    owner: str
    position: int
    text: str
    whole: Sequence[str]


class Flushed(Struct, frozen=True):
    """The log took the text. `stops` asked to stop; `attached` did not, in any process."""

    stops: frozenset[str]
    attached: int


class Fenced(Struct, frozen=True):
    """The log has a later epoch, or another writer: nothing was written."""


class Slice(Struct, frozen=True):
    """What the log has after a position. `alive` says that its writer holds the lease.

    `superseded` says that the epoch asked for is gone: a later one began before it ended, or the log
    was lost.
    """

    text: str
    end: End | None
    alive: bool
    superseded: bool
    stops: frozenset[str]


class Follow(Struct, frozen=True):
    """Somebody is writing: read epoch `epoch`. `begun` is what it had, where that was asked for."""

    epoch: int
    begun: Slice | None = None
