"""What a start writes: a plan as one statement, after the end of a session that nobody came for."""

from typing import Any

from parley.domain.conversation import NewSession
from parley.domain.start import StartPlan
from parley.postgres.batch import Query
from parley.postgres.rows import end_columns
from parley.postgres.session_statements import EXPIRE_SESSION, expiry_arguments
from parley.support.encoding import INVISIBLE

_INSERT_CHAT = """
insert into chats (id, owner_id, title, model_id, next_position, characters, revision, created_at, updated_at)
values (%(chat)s, %(user)s, %(title)s, %(model)s, %(next)s, %(characters)s, %(revision)s, %(now)s, %(now)s)
"""

_ADVANCE_CHAT = """
update chats
   set next_position = %(next)s, characters = characters + %(characters)s, updated_at = %(now)s,
       model_id = %(model)s, revision = %(revision)s
 where id = %(chat)s
"""

_INSERT_QUESTION = """
insert into messages (id, chat_id, position, role, status, parts, revision, created_at, completed_at)
values (%(message)s, %(chat)s, %(position)s, 'user', 'complete',
        jsonb_build_array(jsonb_build_object('type', 'text', 'text', %(prompt)s::text)), %(revision)s,
        %(now)s, %(now)s)
"""

# What `is_blank` passes over, but for NUL, which no text of Postgres holds. Escaped: logs may show it.
_BLANKS = "U&'" + "".join(f"\\+{ord(character):06X}" for character in INVISIBLE if character != "\0") + "'"

# A reply that answers the question stays until the new one does too (`FINISH`).
_SUPERSEDE_FAILURES = f"""
update messages set superseded_by = %(reply)s, revision = %(revision)s
 where chat_id = %(chat)s and reply_to = %(message)s and superseded_by is null
   and (status in ('failed', 'filtered') or ltrim(coalesce(parts -> 0 ->> 'text', ''), {_BLANKS}) = '')
"""  # noqa: S608 - made of constants

_INSERT_REPLY = """
insert into messages (id, chat_id, position, role, status, parts, model_id, reply_to, revision, source, epoch,
                      finish_reason, provider_reason, input_tokens, output_tokens, created_at, completed_at)
values (%(reply)s, %(chat)s, %(next)s - 1, 'assistant', %(status)s,
        case when %(answer)s::text is null then '[]'
             else jsonb_build_array(jsonb_build_object('type', 'text', 'text', %(answer)s::text)) end,
        %(model)s, %(message)s, %(revision)s,
        %(source)s, %(epoch)s, %(finish_reason)s, %(provider_reason)s, %(input_tokens)s, %(output_tokens)s,
        %(now)s, %(ended_at)s)
"""

_INSERT_SESSION = """
insert into sessions (id, user_id, chat_id, message_id, reply_id, model_id, regenerate, idempotency_key,
                      request_hash, created_at, expires_at, reserved_input_tokens, reserved_output_tokens,
                      state, epoch, ended_at)
values (%(session)s, %(user)s, %(chat)s, %(message)s, %(reply)s, %(model)s, %(regenerate)s, %(key)s,
        %(hash)s, %(now)s, %(expires_at)s, %(reserved_input)s, %(reserved_output)s,
        %(state)s, %(epoch)s, %(ended_at)s)
"""


def _together(*statements: str) -> str:
    """Return one statement for several that change rows; all see what was there before."""
    *first, last = statements
    return "with " + ", ".join(f"part_{n} as ({part})" for n, part in enumerate(first)) + last


_NEW_CHAT = _together(_INSERT_CHAT, _INSERT_QUESTION, _INSERT_REPLY, _INSERT_SESSION)
_NEW_QUESTION = _together(_ADVANCE_CHAT, _INSERT_QUESTION, _INSERT_REPLY, _INSERT_SESSION)
_ANSWER_AGAIN = _together(_ADVANCE_CHAT, _SUPERSEDE_FAILURES, _INSERT_REPLY, _INSERT_SESSION)


def writes(new_session: NewSession, plan: StartPlan) -> list[Query]:
    """Return the statements that carry out a plan."""
    started, answer = plan.started, plan.answer
    arguments: dict[str, Any] = {
        "user": new_session.user_id,
        "chat": started.chat_id,
        "message": started.message_id,
        "reply": started.reply_id,
        "session": started.session_id,
        "model": new_session.model_id,
        "title": new_session.title,
        "position": plan.position,
        "revision": plan.revision,
        "next": plan.position + (1 if plan.added is None else 2),
        "characters": (plan.added or 0) + (len(answer.text) if answer else 0),
        "prompt": new_session.prompt,
        "regenerate": new_session.regenerate,
        "key": new_session.idempotency_key,
        "hash": new_session.request_hash,
        "now": plan.now,
        "expires_at": started.expires_at,
        "reserved_input": plan.reserved[0],
        "reserved_output": plan.reserved[1],
        "state": "ended" if answer else "open",
        "status": "complete" if answer else "pending",
        "answer": answer.text if answer else None,
        "source": "cache" if answer else None,
        "epoch": answer.epoch if answer else 0,
        "ended_at": plan.now if answer else None,
    } | end_columns(answer.end if answer else None)
    if new_session.chat_id is None:
        statement = _NEW_CHAT
    else:
        statement = _ANSWER_AGAIN if plan.added is None else _NEW_QUESTION
    opening: list[Query] = [(statement, arguments)]
    if plan.expired is None:
        return opening
    return [(EXPIRE_SESSION, expiry_arguments(session=plan.expired)), *opening]
