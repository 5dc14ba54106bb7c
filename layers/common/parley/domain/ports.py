"""The seams to the outside: what Parley asks of a model, a store, a log and a clock."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from parley.domain.conversation import (
    ChatPage,
    Model,
    NewSession,
    OfferedModel,
    Page,
    Reply,
    Session,
    Started,
    Turn,
)
from parley.domain.events import ModelEvent
from parley.domain.results import (
    Append,
    Attached,
    Ended,
    Fenced,
    Flushed,
    Follow,
    Hit,
    LeaseStatus,
    Orphan,
    Overtaken,
    Saved,
    Slice,
    Stop,
    Stopping,
    Wait,
    Write,
)
from parley.support.wakeup import Wakeup


class Clock(Protocol):
    """Time as this process sees it; the stores use their own."""

    def now(self) -> float:
        """Return seconds since the Unix epoch."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go backwards."""
        ...


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """What a model is asked."""

    model: Model
    turns: tuple[Turn, ...]


class ChatModel(Protocol):
    """A provider's way to answer."""

    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Ask once, and yield what comes, as it comes; what arrived together is one `Delta`.

        The last event is `Finish`; a stream that ends without one was cut off. One may come before, as soon
        as the provider gives its reason: it stands unless text or reasoning follows. Closing the generator
        closes the provider's connection. Never retries, never waits longer than its caller: deadlines
        are the caller's. Raises `ProviderFault` and nothing else.
        """
        ...

    async def close(self) -> None:
        """Close idle connections."""
        ...


class ChatModels(Protocol):
    """All providers this installation has a key for."""

    def get(self, provider: str) -> ChatModel:
        """Return the adapter of `provider`; raises `ProviderFault` where there is no key for it."""
        ...

    def version(self, provider: str) -> str:
        """Return the name and version of the adapter of `provider`, which generation keys have in them.

        Every process must say the same, whichever keys it has; nothing for a provider that is unknown.
        """
        ...

    def has(self, provider: str) -> bool:
        """Return whether `get` finds an adapter."""
        ...

    async def close(self) -> None:
        """Close every adapter."""
        ...


class Store(Protocol):
    """The truth: users, plans, models, chats, messages, sessions. Its clock decides.

    Every method may raise `StoreUnavailable`. Repeating any call with the same arguments changes
    nothing more.
    """

    async def start(self, new_session: NewSession) -> Started:
        """Open a session, in one transaction; where the order has its answer, with the reply saved.

        An answer of another version of the model than the present one is ignored.

        Raises `NotFound` (user or chat), `UserDisabled`, `UnknownModel`, `ModelNotInPlan`, `ChatBusy`,
        `IdempotencyConflict`, `InvalidRequest`, `LimitExceeded`. What the session may use is set aside
        until it ends; repeating an order is never refused by a limit.
        """
        ...

    async def session(self, session_id: str) -> Session:
        """Return a session with its model, turns and reply; raises `NotFound`, `SessionExpired`,
        `UserDisabled`."""
        ...

    async def attach(
        self,
        session_id: str,
        key: str,
        epoch: int,
        lease_seconds: float,
        *,
        writer: bool,
        asks: bool = False,
    ) -> Attached | Overtaken | Ended | Stopping:
        """Bind the session to an epoch of a generation and vouch for it.

        A writer becomes the session's owner; a reader only where nobody else vouches. `asks` says that
        the model is asked on behalf of this session, which is charged for it. Raises `NotFound`.
        """
        ...

    async def claim(
        self, session_id: str, key: str, lease_seconds: float
    ) -> int | Overtaken | Ended | Stopping:
        """Win the right to write the session's reply without a log: the new epoch, or who has it.

        Raises `NotFound`.
        """
        ...

    async def renew_leases(self, epochs: dict[str, int], lease_seconds: float) -> list[LeaseStatus]:
        """Vouch for this process's sessions, each with its epoch, and learn what changed."""
        ...

    async def finish(self, session_id: str, reply: Reply, source: str) -> Saved | Overtaken | Ended:
        """Save a session's reply and end the session, unless a later epoch has it; raises `NotFound`.

        The session's user is charged what `quota` says, once, if a model was asked on its behalf.
        """
        ...

    async def reply(self, session_id: str) -> tuple[bool, Reply | None]:
        """Return whether another process vouches for the session, and its reply once it ended.

        Raises `NotFound`.
        """
        ...

    async def request_stop(self, session_id: str, user_id: str | None) -> Stop:
        """Note that the session shall stop; one that nobody answers yet is ended at once.

        Raises `NotFound`. `user_id` None means that the session id alone is the right.
        """
        ...

    async def history(self, user_id: str, chat_id: str, before: int | None, limit: int) -> Page:
        """Return a page of messages, oldest first; raises `NotFound`, `UserDisabled`."""
        ...

    async def chats(self, user_id: str, before: str | None, limit: int) -> ChatPage:
        """Return a page of the user's chats, latest first; raises `NotFound`, `UserDisabled`."""
        ...

    async def models(self, user_id: str) -> tuple[OfferedModel, ...]:
        """Return the catalogue as the user sees it; raises `NotFound`, `UserDisabled`."""
        ...

    async def orphans(self, grace_seconds: float, limit: int) -> list[Orphan]:
        """Return sessions being answered that nobody has vouched for since `grace_seconds`.

        What is returned is not returned again for that long.
        """
        ...

    async def expire_sessions(self, limit: int) -> int:
        """End up to `limit` sessions that expired before anybody read them; return how many."""
        ...

    async def purge_sessions(self, limit: int) -> int:
        """Delete up to `limit` expired, ended sessions; return how many."""
        ...

    async def purge_chats(self, older_than_days: int, limit: int) -> int:
        """Delete up to `limit` chats without activity for so long; return how many."""
        ...

    async def check(self) -> None:
        """Prove that the store answers."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


class Watch(Protocol):
    """A subscription to a generation's news."""

    async def close(self) -> None:
        """Stop listening."""
        ...


class Log(Protocol):
    """What generations produced, readable from any position by any process. May vanish at any time.

    Every method may raise `LogUnavailable`, and then has taken at most the 250 ms that a silent
    server is given; while the log is known to be away it raises at once.
    """

    async def join(
        self,
        key: str,
        session_id: str,
        owner: str,
        *,
        epoch: int,
        may_create: bool,
        read: bool = False,
    ) -> Hit | Follow | Write | Wait:
        """Attach a session to a generation: one round trip that finds, follows, or elects.

        `read` has it bring what there is to follow, as `read` from 0 would.

        `epoch` is the one the session followed before, or 0; a new epoch is above it. `may_create`
        False forbids to begin anew where the log is lost. A takeover keeps the attached sessions; any
        other new epoch begins with this one only.
        """
        ...

    async def cached(self, key: str) -> Reply | None:
        """Return the reply of a generation that ended well and is kept; attaches nobody."""
        ...

    async def flush(self, appends: Sequence[Append]) -> list[Flushed | Fenced | None]:
        """Append every text, renew every lease, read the stops of each, in one round trip.

        None stands where the log refused one alone.
        """
        ...

    async def end(self, key: str, owner: str, reply: Reply, flushed: int) -> Flushed | Fenced:
        """Append the text after `flushed` and the terminal entry, and give up the lease."""
        ...

    async def abandon(self, key: str, owner: str) -> bool:
        """Delete the log, unless a session is attached or another writer has it; say whether."""
        ...

    async def read(self, key: str, epoch: int, position: int) -> Slice:
        """Return what follows `position` in `epoch`."""
        ...

    async def watch(self, key: str, wakeup: Wakeup) -> Watch:
        """Ring `wakeup` whenever the generation's log grows or a stop is asked."""
        ...

    async def stop(self, key: str, session_id: str) -> int:
        """Detach a session and tell every process that serves the generation.

        Returns how many sessions are still attached.
        """
        ...

    async def park(self, session_id: str, reply: Reply, source: str) -> None:
        """Keep a reply that the store could not take."""
        ...

    async def parked(self, limit: int) -> list[tuple[str, Reply, str]]:
        """Return parked replies: session, reply, source."""
        ...

    async def unpark(self, session_id: str) -> None:
        """Forget a parked reply."""
        ...

    async def check(self) -> None:
        """Prove that the log answers."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...
