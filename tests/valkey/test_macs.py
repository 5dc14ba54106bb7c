"""A MAC fits one value in one place, and is made by whoever has the secret."""

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from parley.valkey.macs import LENGTH, Macs

SECRET = "a secret that only this test knows, long enough"
OTHER = "another secret that only this test knows"
MACS = Macs(SECRET)

# Spaces and digits are what the encoding is made of.
NAMES = st.text(alphabet=st.sampled_from("k 01"), max_size=3)
VALUES = st.binary(max_size=6) | st.sampled_from([b" ", b"1 ", b"0 1 k", b"12"])
NUMBERS = st.integers(0, 130) | st.integers(0, 2**53)
KINDS = st.sampled_from([b"t", b"e", b"done", b"parked"])
BOUND = st.tuples(KINDS, NAMES, NUMBERS, NUMBERS, VALUES)


@given(bound=BOUND)
def test_a_mac_verifies_where_it_was_made(bound: Any) -> None:
    mac = MACS.make(*bound)
    assert len(mac) == LENGTH
    assert MACS.verify(mac, *bound)


@pytest.mark.parametrize("changed", [{0}, {1}, {2}, {3}, {4}, {1, 4}, {2, 3}, {0, 1, 2, 3, 4}], ids=str)
@given(bound=BOUND, other=BOUND)
def test_a_mac_verifies_nothing_else(changed: set[int], bound: Any, other: Any) -> None:
    moved = tuple(other[place] if place in changed else bound[place] for place in range(5))
    assume(moved != bound)
    assert not MACS.verify(MACS.make(*bound), *moved)


@given(bound=BOUND, cut=st.integers(1, 6))
def test_no_part_of_a_value_passes_for_a_part_of_its_name(bound: Any, cut: int) -> None:
    kind, name, epoch, position, value = bound
    text = name + value.decode("latin-1")
    assume(len(text) >= cut and text[:cut] != name)
    moved = (kind, text[:cut], epoch, position, text[cut:].encode("latin-1"))
    assert not MACS.verify(MACS.make(*bound), *moved)


@given(bound=BOUND, given=st.binary(max_size=LENGTH + 1))
def test_no_other_bytes_are_the_mac(bound: Any, given: bytes) -> None:
    assume(given != MACS.make(*bound))
    assert not MACS.verify(given, *bound)


def test_the_previous_secret_verifies_and_makes_nothing() -> None:
    bound = (b"t", "k", 1, 2, b"value")
    rotated = Macs(OTHER, SECRET)
    assert rotated.verify(MACS.make(*bound), *bound)
    assert not MACS.verify(rotated.make(*bound), *bound)
    assert not Macs(OTHER).verify(MACS.make(*bound), *bound)
    # Without a previous secret, the empty one is none.
    assert not MACS.verify(Macs("").make(*bound), *bound)


def test_a_mac_stays_what_it_is() -> None:
    # Processes of two releases must agree while one is deployed over the other.
    mac = MACS.make(b"t", "3vO8", 1796035657988, 5, "é".encode())
    assert mac.hex() == "5b60d6c0f229609e87d8a36e2a1daece"
