"""Defines the ports: what Parley asks of a model, a store and a log."""

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
from parley.domain.events import ModelEvent, Spent
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
    ReaderCount,
    Saved,
    Slice,
    Stop,
    Stopping,
    Wait,
    Write,
)
from parley.support.wakeup import Wakeup


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A request to a model."""

    model: Model
    turns: tuple[Turn, ...]


class ChatModel(Protocol):
    """A provider's adapter."""

    def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Send the request once, and yield events as they come. Text that arrived together is one `Delta`.

        The last event is `Finish`; a stream that ends without one was cut off. An earlier `Finish` may come
        as soon as the provider gives its reason; it stands unless text or reasoning follows. Closing the
        generator closes the provider's connection. Retries and deadlines are the caller's. Raises
        `ProviderFault` and nothing else.
        """
        ...

    async def close(self) -> None:
        """Close idle connections."""
        ...


class ChatModels(Protocol):
    """The adapters of all providers that this installation has a key for."""

    def get(self, provider: str) -> ChatModel:
        """Return the adapter of `provider`. Raises `ProviderFault` if there is no key for it."""
        ...

    def version(self, provider: str) -> str:
        """Return the name and version of the provider's adapter, as generation keys contain them.

        Every process returns the same, whichever keys it has. An unknown provider returns an empty string.
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

    Every method may raise `StoreUnavailable`. A repeated call with the same arguments changes nothing more.
    """

    async def start(self, new_session: NewSession) -> Started:
        """Open a session in one transaction. A new session with an `answer` is saved with that reply.

        An answer for another version of the model than the current one is ignored. What the session may use
        is reserved until its end. A repeated start is never refused by a limit. Raises `NotFound` (user or
        chat), `UserDisabled`, `UnknownModel`, `ModelNotInPlan`, `ChatBusy`, `IdempotencyConflict`,
        `InvalidRequest`, `LimitExceeded`.
        """
        ...

    async def session(self, session_id: str) -> Session:
        """Return a session with its model, turns and reply.

        Raises `NotFound`, `SessionExpired`, `UserDisabled`.
        """
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
        """Attach the session to an epoch of a generation, and renew its lease.

        A writer becomes the session's owner; a reader only where no other process holds the lease. `asks`
        says that the model is asked for this epoch on behalf of this session, which is charged; a session
        that asked for an earlier epoch only is not charged for this one. Raises `NotFound`.
        """
        ...

    async def hand_over(
        self, asker: str | None, candidates: Sequence[str], key: str, epoch: int, spent: Spent
    ) -> str | None:
        """Make one of `candidates` the asker of an epoch in place of `asker`; return it, or None.

        Chosen is a session that follows this epoch and has not ended, that nobody stops, and whose user is
        not disabled; if possible one with a lease that runs, or `asker` itself if it is a candidate. No
        lease changes hands. `spent` is what the epoch has cost until now. `asker`, unless it has ended, is
        charged that at its end; together the askers are charged what the last of them would be charged alone.
        """
        ...

    async def claim(
        self, session_id: str, key: str, lease_seconds: float
    ) -> int | Overtaken | Ended | Stopping:
        """Claim the right to write the session's reply without a log; return the new epoch, or why not.

        Raises `NotFound`.
        """
        ...

    async def renew_leases(self, epochs: dict[str, int], lease_seconds: float) -> list[LeaseStatus]:
        """Renew the leases of this process's sessions, given with their epochs; return what changed."""
        ...

    async def finish(self, session_id: str, reply: Reply, source: str) -> Saved | Overtaken | Ended:
        """Save a session's reply and end the session, unless a later epoch has it. Raises `NotFound`.

        The user is charged `limits.charged`, once, if a model was asked for this epoch on the session's
        behalf, less what the askers before it were charged.
        """
        ...

    async def reply(self, session_id: str) -> tuple[bool, Reply | None]:
        """Return whether another process holds the session's lease, and the reply of an ended session.

        Raises `NotFound`.
        """
        ...

    async def request_stop(self, session_id: str, user_id: str | None) -> Stop:
        """Record a stop request; a session that no process answers yet is ended at once.

        `user_id` None means that the session id alone is the right. Raises `NotFound`.
        """
        ...

    async def history(self, user_id: str, chat_id: str, before: int | None, limit: int) -> Page:
        """Return a page of messages, oldest first. Raises `NotFound`, `UserDisabled`."""
        ...

    async def changes(self, user_id: str, chat_id: str, since: int, limit: int) -> Page | None:
        """Return the messages that changed after the revision `since`, oldest first.

        None: more than `limit` changed, or the chat has no such revision, since the database was restored
        from a backup. Raises `NotFound`, `UserDisabled`.
        """
        ...

    async def history_from(self, user_id: str, chat_id: str, message_id: str, limit: int) -> Page:
        """Return all that may differ for who knows the chat up to a message: its question, and all after it.

        They come oldest first, at most the newest `limit`. For a message that the chat does not have, they
        are the newest. Raises `NotFound`, `UserDisabled`.
        """
        ...

    async def chats(self, user_id: str, before: str | None, limit: int) -> ChatPage:
        """Return a page of the user's chats, latest first. Raises `NotFound`, `UserDisabled`."""
        ...

    async def models(self, user_id: str) -> tuple[OfferedModel, ...]:
        """Return the catalogue as the user sees it. Raises `NotFound`, `UserDisabled`."""
        ...

    async def orphans(self, grace_seconds: float, limit: int) -> list[Orphan]:
        """Return sessions whose lease ran out more than `grace_seconds` ago while they were answered.

        A returned session is not returned again for that long.
        """
        ...

    async def expire_sessions(self, limit: int) -> int:
        """End up to `limit` sessions that expired before any reader came; return how many."""
        ...

    async def purge_sessions(self, limit: int) -> int:
        """Delete up to `limit` expired, ended sessions; return how many."""
        ...

    async def purge_chats(self, older_than_days: int, limit: int) -> int:
        """Delete up to `limit` chats without activity for `older_than_days` days; return how many."""
        ...

    async def check(self) -> None:
        """Prove that the store answers."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


class Watch(Protocol):
    """A subscription to a generation's changes."""

    async def close(self) -> None:
        """Stop listening."""
        ...


class Log(Protocol):
    """The log of each generation, readable from any position by any process. It may vanish at any time.

    Every method may raise `LogUnavailable`, after at most the 250 ms that a silent server is given. While the
    log is known to be away, it raises at once.
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
        """Attach a session to a generation, in one round trip that finds, follows or elects.

        `epoch` is the epoch that the session followed before, or 0; a new epoch is above it. `may_create`
        False forbids a new log where the log is lost. `read` adds the text to follow, as `read` from 0 would.
        A takeover keeps the attached sessions; any other new epoch begins with this session only.
        """
        ...

    async def cached(self, key: str) -> Reply | None:
        """Return the cached reply of a generation that ended well; attach no session."""
        ...

    async def flush(self, appends: Sequence[Append]) -> list[Flushed | Fenced | None]:
        """Append each writer's text, renew its lease and read its stops, in one round trip for all.

        None marks an append that the log refused alone.
        """
        ...

    async def end(self, key: str, owner: str, reply: Reply, flushed: int) -> Flushed | Fenced:
        """Append the text after `flushed` and the terminal entry, and give up the lease."""
        ...

    async def abandon(self, key: str, owner: str) -> bool:
        """Delete the log, unless a session is attached or another writer has it; return whether it did."""
        ...

    async def read(self, key: str, epoch: int, position: int) -> Slice:
        """Return the text and the end after `position` in `epoch`."""
        ...

    async def watch(self, key: str, wakeup: Wakeup) -> Watch:
        """Notify `wakeup` whenever the generation's log grows or a stop is requested."""
        ...

    async def attached(self, key: str) -> frozenset[str]:
        """Return the sessions that are attached to a generation, in all processes."""
        ...

    async def stop(self, key: str, session_id: str) -> int:
        """Detach a session, tell the generation's processes, and return how many sessions stay attached."""
        ...

    async def count_readers(
        self, counts: Sequence[ReaderCount], limit: int, seconds: float
    ) -> list[list[int] | None]:
        """Keep each session's newest `limit` readers of all processes, in one round trip for all sessions.

        Returns for each count the arrivals of its `here`; 0 marks a reader that has to go for newer ones. A
        reader that the log does not know is counted by the arrival it has, or as the newest. A count is kept
        for `seconds`. None marks a count that the log refused alone.
        """
        ...

    async def park(self, session_id: str, reply: Reply, source: str) -> None:
        """Keep a reply that the store could not take."""
        ...

    async def parked(self, limit: int) -> list[tuple[str, Reply, str]]:
        """Return up to `limit` parked replies as session id, reply, source; none where none is left."""
        ...

    async def parked_of(self, session_id: str) -> tuple[Reply, str] | None:
        """Return the parked reply of one session, and its source."""
        ...

    async def unpark(self, session_id: str) -> None:
        """Delete a parked reply."""
        ...

    async def check(self) -> None:
        """Prove that the log answers."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...
