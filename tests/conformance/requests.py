"""Makes starts for tests: each with ids of its own."""

from itertools import count
from typing import Any

from msgspec.structs import replace

from parley.domain.conversation import NewSession, Reply, Started
from parley.domain.events import Completed, FinishReason, Usage
from parley.domain.ports import Store
from parley.domain.results import Saved

STOP = Completed(FinishReason.STOP, "end_turn", Usage(3, 4))

_numbers = count()


def new_session(
    prompt: str | None = "Why?", model: str = "small", user: str = "ada", **fields: Any
) -> NewSession:
    number = next(_numbers)
    made = NewSession(
        user_id=user,
        prompt=prompt,
        model_id=model,
        chat_id=None,
        regenerate=False,
        idempotency_key=None,
        request_hash=f"hash of {prompt}",
        title=f"About {prompt}",
        new_session_id=f"session-{number:04}",
        new_chat_id=f"chat-{number:04}",
        new_message_id=f"message-{number:04}",
        new_reply_id=f"reply-{number:04}",
    )
    return replace(made, **fields)


async def turn(
    store: Store,
    prompt: str,
    reply: str = "Because.",
    chat_id: str | None = None,
    user: str = "ada",
    **fields: Any,
) -> Started:
    """Ask and answer."""
    started = await store.start(new_session(prompt, user=user, chat_id=chat_id, **fields))
    assert await store.finish(started.session_id, Reply(1, reply, STOP), "provider") == Saved()
    return started
