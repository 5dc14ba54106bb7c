"""Makes random identifiers, and checks identifiers from outside."""

import re
import secrets

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SUBJECT = re.compile(r"[\x21-\x7e]{1,128}")


def new_id() -> str:
    """Return 128 random bits as 22 URL-safe characters, for chats and messages."""
    return secrets.token_urlsafe(16)


def new_session_id() -> str:
    """Return 192 random bits as 32 URL-safe characters. The id is the right to read the stream."""
    return secrets.token_urlsafe(24)


def is_id(value: str) -> bool:
    """Tell whether `value` could be one of our identifiers; any other value needs no look-up."""
    return _ID.fullmatch(value) is not None


def is_subject(value: str) -> bool:
    """Tell whether `value` could name a user: 1 to 128 printable ASCII characters without a space."""
    return _SUBJECT.fullmatch(value) is not None
