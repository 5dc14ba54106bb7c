"""Makes random identifiers, and checks identifiers from outside."""

import base64
import hmac
import re
import secrets

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SUBJECT = re.compile(r"[\x21-\x7e]{1,128}")

# A session id is a random part of 192 bits and a MAC of 120 bits, 6 bits a character.
_RANDOM, _MAC = 32, 20
# The ids of the release before are a random part alone. The next release drops this form (docs/upgrading.md).
_OLD = 32
# Both labels end in the version of the form. Generation keys are MACs of JSON arrays under the secret itself,
# so that no generation key is the key of session ids.
_KEY_LABEL = b"parley key of session ids 1"
_ID_LABEL = b"parley session id 1 "
_PSEUDONYM_LABEL = b"parley key of pseudonyms 1"


def new_id() -> str:
    """Return 128 random bits as 22 URL-safe characters, for chats and messages."""
    return secrets.token_urlsafe(16)


def is_id(value: str) -> bool:
    """Tell whether `value` could be one of our identifiers; any other value needs no look-up."""
    return _ID.fullmatch(value) is not None


def is_subject(value: str) -> bool:
    """Tell whether `value` could name a user: 1 to 128 printable ASCII characters without a space."""
    return _SUBJECT.fullmatch(value) is not None


def pseudonym(secret: str, user_id: str) -> str:
    """Return 12 URL-safe characters that stand for a user in the log, the same as long as `secret` is.

    Without the secret nobody can tell whose they are; a plain hash tells whoever has a list of users.
    """
    key = hmac.digest(secret.encode(), _PSEUDONYM_LABEL, "sha256")
    return base64.urlsafe_b64encode(hmac.digest(key, user_id.encode(), "sha256")[:9]).decode("ascii")


class SessionIds:
    """Makes session ids, and verifies those of clients without the database.

    A session's id is the right to read its stream, and anybody may send one. Its MAC (HMAC-SHA256, RFC 2104)
    spares the database every id that this installation has not made.
    """

    def __init__(self, secret: str, previous: str = "") -> None:
        """`secret` makes ids, and verifies them. `previous`, unless it is empty, verifies alone."""
        self._key = _key(secret)
        self._keys = (self._key, _key(previous)) if previous else (self._key,)

    def new(self) -> str:
        """Return 52 URL-safe characters: 192 random bits, and their MAC."""
        random = secrets.token_urlsafe(24)
        return random + _mac(self._key, random)

    def verify(self, value: str) -> bool:
        """Tell whether `value` may be a session's id; any other value needs no look-up.

        An id in the old form has no MAC, so that only the database knows whether it is one.
        """
        if not is_id(value):
            return False
        if len(value) == _OLD:
            return True
        if len(value) != _RANDOM + _MAC:
            return False
        random, mac = value[:_RANDOM], value[_RANDOM:]
        # The characters are compared, since several texts in Base64 may have the same bytes.
        return any(hmac.compare_digest(mac, _mac(key, random)) for key in self._keys)


def _key(secret: str) -> bytes:
    return hmac.digest(secret.encode(), _KEY_LABEL, "sha256")


def _mac(key: bytes, random: str) -> str:
    digest = hmac.digest(key, _ID_LABEL + random.encode(), "sha256")
    return base64.urlsafe_b64encode(digest)[:_MAC].decode("ascii")
