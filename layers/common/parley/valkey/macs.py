"""Makes and verifies the MACs by which a process knows what the processes of its installation wrote."""

import hashlib
import hmac

# The label ends in the version of what a MAC is made of.
_KEY_LABEL = b"parley key of log macs 1"
LENGTH = 16


class Macs:
    """MACs over values in Valkey, and over the place where each value belongs.

    Whoever can write to Valkey cannot make one, and a value that is moved elsewhere does not verify. It is
    keyed BLAKE2b (RFC 7693), which takes half as long as HMAC-SHA256 for a few words.
    """

    def __init__(self, secret: str, previous: str = "") -> None:
        """`secret` makes MACs, and verifies them. `previous`, unless it is empty, verifies alone."""
        self._state = _state(secret)
        self._states = (self._state, _state(previous)) if previous else (self._state,)

    def make(self, kind: bytes, name: str, epoch: int, position: int, value: bytes) -> bytes:
        """Return the MAC of a value: `LENGTH` bytes.

        `kind` is the word for what the value is. `name` is its generation's key, or its session's id.
        """
        mac = self._state.copy()
        mac.update(_bound(kind, name, epoch, position, value))
        return mac.digest()

    def verify(self, given: bytes, kind: bytes, name: str, epoch: int, position: int, value: bytes) -> bool:
        """Tell whether `given` is the MAC of this value in this place."""
        bound = _bound(kind, name, epoch, position, value)
        for state in self._states:
            mac = state.copy()
            mac.update(bound)
            if hmac.compare_digest(given, mac.digest()):
                return True
        return False


def _state(secret: str) -> "hashlib.blake2b":
    key = hmac.digest(secret.encode(), _KEY_LABEL, "sha256")
    return hashlib.blake2b(key=key, digest_size=LENGTH)


def _bound(kind: bytes, name: str, epoch: int, position: int, value: bytes) -> bytes:
    # No two sets of fields give the same bytes: a kind has no space, and the name's length says where the
    # value begins.
    named = name.encode()
    return b"%b %d %d %d %b%b" % (kind, epoch, position, len(named), named, value)
