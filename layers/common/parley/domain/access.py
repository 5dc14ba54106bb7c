"""Decides who may do what, by one table. Every endpoint asks it; nothing else decides about access.

A store reads the facts: a caller's role towards the thing, and whether the user is disabled. What does not
exist and what belongs to somebody else are the same refusal, so that no caller learns which ids exist.
"""

from enum import StrEnum
from typing import NamedTuple

from parley.domain.errors import NotFound, ParleyError, UserDisabled


class Role(StrEnum):
    """A caller's role towards a chat, a session or an account."""

    OWNER = "owner"
    # Knows a session's id, which nobody can guess.
    BEARER = "bearer"


class Right(StrEnum):
    """What a caller wants to do."""

    # See the chats of an account, and the models that it may choose.
    LIST = "list"
    # See the messages of a chat.
    READ = "read"
    # Ask a question: a new chat's in an account, or the next one in a chat.
    ASK = "ask"
    # Follow a session's reply.
    FOLLOW = "follow"
    # End a session's reply early.
    STOP = "stop"


class Caller(NamedTuple):
    """Who asks. Without a `role`, the thing does not exist, or the caller has nothing to do with it."""

    role: Role | None
    disabled: bool = False


_RIGHTS = {
    Role.OWNER: frozenset({Right.LIST, Right.READ, Right.ASK, Right.FOLLOW, Right.STOP}),
    Role.BEARER: frozenset({Right.FOLLOW, Right.STOP}),
}
# What a disabled user may do: a reply that costs money can be ended by everybody who could before.
_OF_THE_DISABLED = frozenset({Right.STOP})


def roles(right: Right) -> list[str]:
    """Return the roles that have a right, for a store that looks for them where it reads or writes."""
    return [role.value for role, rights in _RIGHTS.items() if right in rights]


def is_of_the_disabled(right: Right) -> bool:
    """Return whether a disabled user keeps the right, for a store that asks while it writes."""
    return right in _OF_THE_DISABLED


def refusal(caller: Caller, right: Right) -> ParleyError | None:
    """Return why the caller does not have the right, None if the caller has it.

    `NotFound` comes before `UserDisabled`: a disabled user learns nothing of others' things either.
    """
    if caller.role is None or right not in _RIGHTS[caller.role]:
        return NotFound()
    if caller.disabled and right not in _OF_THE_DISABLED:
        return UserDisabled()
    return None


def require(caller: Caller, right: Right) -> None:
    """Raise the `refusal` if there is one."""
    refused = refusal(caller, right)
    if refused is not None:
        raise refused
