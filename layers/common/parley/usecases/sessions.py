"""Opens a session for a prompt, and stops a session."""

import asyncio
import contextlib
import hashlib
import time
from dataclasses import dataclass, replace

from parley.domain.conversation import NewSession, Reply, Started
from parley.domain.errors import ChatMoved, InvalidRequest, LogUnavailable, NotFound, TooLarge, UnknownModel
from parley.domain.events import Completed, FinishReason, Source
from parley.domain.ids import SessionIds, is_id, new_id
from parley.domain.ports import Log, Store
from parley.domain.titles import title_of
from parley.streaming.parked_replies import save_parked_of
from parley.support.encoding import to_json
from parley.support.logs import logger
from parley.usecases.cached_replies import CachedReplies

_logger = logger("sessions")
# The most messages that the refusal of a start tells of.
_NEWS = 50


@dataclass(frozen=True, slots=True)
class StartRequest:
    """A client's request to answer a prompt."""

    user_id: str
    prompt: str | None
    model_id: str
    chat_id: str | None
    regenerate: bool
    idempotency_key: str | None
    parent_id: str | None = None
    replaces: str | None = None


async def start(
    store: Store,
    cached_replies: CachedReplies,
    session_ids: SessionIds,
    request: StartRequest,
    *,
    prompt_characters: int,
) -> Started:
    """Open a session. A cached reply is saved with it, and its stream then only reads.

    `prompt_characters` is the longest prompt, in code points. Raises the errors of `Store.start`; a bad
    prompt raises `InvalidRequest`, or `TooLarge`.
    """
    request = _with_regenerate(request)
    request = _without_empty_prompt(request)
    _check(request, prompt_characters)
    # What the user knows of the chat is no part of the order: sent again, it may know more. An order without
    # `replaces` has the hash that the release before gave it.
    body = [request.prompt, request.model_id, request.chat_id, request.regenerate]
    if request.replaces is not None:
        body.append(request.replaces)
    new_session = NewSession(
        user_id=request.user_id,
        prompt=request.prompt,
        model_id=request.model_id,
        chat_id=request.chat_id,
        regenerate=request.regenerate,
        idempotency_key=request.idempotency_key,
        request_hash=hashlib.sha256(to_json(body)).hexdigest(),
        title=title_of(request.prompt or ""),
        new_session_id=session_ids.new(),
        new_chat_id=new_id(),
        new_message_id=new_id(),
        new_reply_id=new_id(),
        parent_id=request.parent_id,
        replaces=request.replaces,
    )
    begun = time.monotonic()
    new_session = await cached_replies.attach_to(new_session)
    try:
        started = await store.start(new_session)
    except ChatMoved as moved:
        assert new_session.chat_id is not None
        news = await store.history_from(new_session.user_id, new_session.chat_id, moved.known, _NEWS)
        raise ChatMoved(moved.known, news) from None
    cached_replies.remember_model(started)
    if started.answered and new_session.answer is not None:
        # After the response, which needs no further wait: the line takes as long to write.
        asyncio.get_running_loop().call_soon(
            _report, new_session, new_session.answer, time.monotonic() - begun
        )
    return started


def _report(new_session: NewSession, reply: Reply, seconds: float) -> None:
    """Write the log line that metrics are made of, as `SessionRun.report` does for a streamed reply.

    The line has no `seconds`, because the reply was not streamed.
    """
    fields = {
        "source": Source.CACHE.value,
        "model": new_session.model_id,
        "status": reply.status.value,
        "saved": True,
        "characters": len(reply.text),
        "first_token_ms": round(seconds * 1000),
    }
    _logger.info("reply_ended", extra=fields)


def _with_regenerate(request: StartRequest) -> StartRequest:
    """Return the request with `regenerate` where it names the reply that it replaces."""
    return request if request.replaces is None else replace(request, regenerate=True)


def _without_empty_prompt(request: StartRequest) -> StartRequest:
    """Return the request with None in place of an empty prompt, if it asks the chat's last question again.

    The request's hash is made of the result: both spellings ask the same, so one idempotency key takes both.
    """
    if request.regenerate and request.chat_id is not None and not (request.prompt or "").strip():
        return replace(request, prompt=None)
    return request


def _check(request: StartRequest, prompt_characters: int) -> None:
    if request.chat_id is not None and not is_id(request.chat_id):
        raise NotFound
    if not request.model_id.isprintable():
        raise UnknownModel  # NUL is not printable, and no query takes it
    _check_known(request)
    if request.prompt is None:
        if request.regenerate and request.chat_id is not None:
            return
        raise InvalidRequest("prompt is required.", field="prompt")
    if not request.prompt.strip():
        raise InvalidRequest("prompt is empty.", field="prompt")
    if len(request.prompt) > prompt_characters:
        raise TooLarge(f"prompt is longer than {prompt_characters} characters.", field="prompt")
    if "\0" in request.prompt:
        raise InvalidRequest("prompt contains a NUL character.", field="prompt")
    if any("\ud800" <= character <= "\udfff" for character in request.prompt):
        raise InvalidRequest("prompt contains half of a surrogate pair.", field="prompt")


def _check_known(request: StartRequest) -> None:
    for field, known in (("parentId", request.parent_id), ("replaces", request.replaces)):
        if known is None:
            continue
        if request.chat_id is None:
            raise InvalidRequest(f"{field} needs a chatId.", field=field)
        if not is_id(known):
            raise InvalidRequest(f"{field} is not the id of a message.", field=field)
    if request.replaces is not None:
        if request.parent_id is not None:
            raise InvalidRequest("parentId and replaces exclude each other.", field="replaces")
        if request.prompt is not None:
            raise InvalidRequest("With replaces, prompt must be left out.", field="prompt")


async def stop(store: Store, log: Log, session_ids: SessionIds, session_id: str, user_id: str | None) -> None:
    """Ask the process that answers the session to stop; end the session here if no process answers it.

    Stopping an ended or stopped session changes nothing. Raises `NotFound`.
    """
    if not session_ids.verify(session_id):
        raise NotFound
    found = await store.request_stop(session_id, user_id)
    if found.ended or found.generation_key is None:
        return
    with contextlib.suppress(LogUnavailable):
        await log.stop(found.generation_key, session_id)
    if not found.leased:
        with contextlib.suppress(LogUnavailable):
            # The end comes before a stop: a whole reply is saved whole.
            if await save_parked_of(store, log, session_id, _logger):
                return
        text = ""
        with contextlib.suppress(LogUnavailable):
            text = (await log.read(found.generation_key, found.epoch, 0)).text
        await store.finish(session_id, Reply(found.epoch, text, Completed(FinishReason.STOPPED)), "provider")
