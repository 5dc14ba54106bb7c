"""Session ids tell by themselves whether this installation made them."""

import base64
import hashlib
import hmac
import secrets

import pytest

from parley.domain.ids import SessionIds, is_id

SECRET, OTHER = "a secret of this installation, 1", "a secret of this installation, 2"
IDS = SessionIds(SECRET)


def test_a_session_id_is_verified_by_those_who_know_its_secret() -> None:
    made = IDS.new()
    assert IDS.verify(made)
    assert SessionIds(SECRET).verify(made)
    assert not SessionIds(OTHER).verify(made)


def test_a_session_id_is_an_id_of_192_random_bits_and_a_mac_of_120() -> None:
    made = {IDS.new() for _ in range(1000)}
    assert all(is_id(one) and len(one) == 52 for one in made)
    assert len({one[:32] for one in made}) == len(made)
    assert len({one[32:] for one in made}) == len(made)


def test_a_session_id_stays_the_same_from_release_to_release() -> None:
    assert IDS.verify("A" * 32 + "CGl7YIta5VhR8bvs0DGr")


def test_a_session_id_with_any_other_bit_is_none() -> None:
    made = IDS.new()
    for place, character in enumerate(made):
        for bit in range(7):
            changed = made[:place] + chr(ord(character) ^ (1 << bit)) + made[place + 1 :]
            assert not IDS.verify(changed)


def test_a_part_of_a_session_id_is_none() -> None:
    made = IDS.new()
    # 32 characters are the form of the release before.
    lengths = [length for length in range(1, 52) if length != 32]
    assert not [length for length in lengths if IDS.verify(made[:length]) or IDS.verify(made[-length:])]
    for longer in (f"{made}A", f"A{made}", f"{made}=", f"{made}\n", f" {made}", f"{made}\0", made * 2):
        assert not IDS.verify(longer)


@pytest.mark.parametrize(
    "text", ["", "é" * 52, "😀" * 52, "\ud800" * 52, "\0" * 52, "A" * 52, "-" * 52, "=" * 52]
)
def test_a_text_without_a_mac_is_no_session_id(text: str) -> None:
    assert not IDS.verify(text)


def test_the_mac_of_another_session_id_does_not_serve() -> None:
    one, other = IDS.new(), IDS.new()
    assert not IDS.verify(one[:32] + other[32:])


def test_a_mac_made_for_another_purpose_does_not_serve() -> None:
    random = secrets.token_urlsafe(24)
    key = hmac.digest(SECRET.encode(), b"parley key of session ids 1", "sha256")
    digests = [
        # The secret itself is the key of generation keys.
        hmac.digest(SECRET.encode(), random.encode(), "sha256"),
        hmac.digest(SECRET.encode(), b"parley session id 1 " + random.encode(), "sha256"),
        hmac.digest(key, random.encode(), "sha256"),
        hmac.digest(key, b"parley chat id 1 " + random.encode(), "sha256"),
        hashlib.sha256(SECRET.encode() + random.encode()).digest(),
    ]
    for digest in digests:
        assert not IDS.verify(random + base64.urlsafe_b64encode(digest)[:20].decode())


def test_a_previous_secret_verifies_and_makes_nothing() -> None:
    before, rotated = SessionIds(OTHER), SessionIds(SECRET, OTHER)
    assert rotated.verify(before.new())
    assert rotated.verify(rotated.new())
    assert IDS.verify(rotated.new())
    assert not before.verify(rotated.new())
    assert not rotated.verify(SessionIds("a third one").new())


def test_an_empty_previous_secret_is_none() -> None:
    assert not SessionIds(SECRET, "").verify(SessionIds("").new())


def test_every_id_of_the_release_before_is_looked_up() -> None:
    assert all(IDS.verify(secrets.token_urlsafe(24)) for _ in range(100))
    assert not IDS.verify("x" * 31 + "!")
