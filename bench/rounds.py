"""Who is measured in which round, and in which order."""

from collections.abc import Sequence
from typing import TypeVar

_Item = TypeVar("_Item")


def orders(
    contenders: Sequence[_Item], builds: Sequence[_Item], *, rounds: int, of_builds: int
) -> list[list[_Item]]:
    """Return the contenders of each round in their order; `builds` are those of Parley among them.

    Two builds get at least so many rounds as `of_builds` says, and always an even number of them: they change
    places after each round, so that each is as often the first.
    """
    if len(builds) < 2:
        return [list(contenders)] * rounds
    total = max(rounds, of_builds)
    total += total % 2
    return [_in_turn(contenders if number < rounds else builds, builds, number) for number in range(total)]


def _in_turn(contenders: Sequence[_Item], builds: Sequence[_Item], number: int) -> list[_Item]:
    turned = iter(reversed(builds) if number % 2 else builds)
    return [next(turned) if each in builds else each for each in contenders]
