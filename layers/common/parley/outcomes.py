"""What stores and logs answer, and what a writer tells its log."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from parley.conversation import Reply
from parley.events import End


@dataclass(frozen=True, slots=True)
class Attached:
    """The session now follows the epoch that the caller named."""


@dataclass(frozen=True, slots=True)
class Overtaken:
    """Another epoch has the session: the caller's may write nothing."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The session ended before, with this reply; whoever shows it shows this."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Stopping:
    """Somebody asked to stop the session, and no reply was saved yet; `disabled` is about its user."""

    disabled: bool


@dataclass(frozen=True, slots=True)
class Stop:
    """What a request to stop found. `generation_key` is there while some process may be writing."""

    ended: bool
    leased: bool
    generation_key: str | None
    epoch: int


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a process learns of one of its sessions when it vouches for it."""

    session_id: str
    overtaken: bool
    ended: bool
    stopping: bool
    disabled: bool


@dataclass(frozen=True, slots=True)
class Saved:
    """The reply is stored."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A session whose writers and readers are all gone; its reply is wherever the log has it."""

    session_id: str
    generation_key: str | None
    epoch: int
    stopping: bool


@dataclass(frozen=True, slots=True)
class Hit:
    """The generation ended well: here is all of it."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Follow:
    """Somebody is writing; read epoch `epoch`."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Write:
    """The caller is the writer of epoch `epoch`; `takeover` says that an earlier writer died."""

    epoch: int
    takeover: bool


@dataclass(frozen=True, slots=True)
class Wait:
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


@dataclass(frozen=True, slots=True)
class Flushed:
    """The log took the text. `stops` asked to stop; `attached` did not, in any process."""

    stops: frozenset[str]
    attached: int


@dataclass(frozen=True, slots=True)
class Fenced:
    """The log has a later epoch, or another writer: nothing was written."""


@dataclass(frozen=True, slots=True)
class Slice:
    """What the log has after a position. `alive` says that its writer holds the lease.

    `superseded` says that the epoch asked for is gone: a later one began before it ended, or the log
    was lost.
    """

    text: str
    end: End | None
    alive: bool
    superseded: bool
    stops: frozenset[str]
