"""Who may do what, as one table: a new role is a column, a new right is a line."""

import pytest

from parley.domain.access import Caller, Right, Role, refusal, require, roles
from parley.domain.errors import NotFound, ParleyError, UserDisabled

Refusal = type[ParleyError] | None

ROLES = (None, Role.OWNER, Role.BEARER)

ENABLED: dict[Right, tuple[Refusal, ...]] = {
    Right.LIST:   (NotFound, None, NotFound),
    Right.READ:   (NotFound, None, NotFound),
    Right.ASK:    (NotFound, None, NotFound),
    Right.FOLLOW: (NotFound, None, None),
    Right.STOP:   (NotFound, None, None),
}  # fmt: skip

DISABLED: dict[Right, tuple[Refusal, ...]] = {
    Right.LIST:   (NotFound, UserDisabled, NotFound),
    Right.READ:   (NotFound, UserDisabled, NotFound),
    Right.ASK:    (NotFound, UserDisabled, NotFound),
    Right.FOLLOW: (NotFound, UserDisabled, UserDisabled),
    Right.STOP:   (NotFound, None, None),
}  # fmt: skip

CELLS = [
    pytest.param(
        Caller(role, disabled), right, expected,
        id=f"{'disabled ' if disabled else ''}{role.value if role else 'no role'}: {right.value}",
    )
    for disabled, table in ((False, ENABLED), (True, DISABLED))
    for right, line in table.items()
    for role, expected in zip(ROLES, line, strict=True)
]  # fmt: skip


@pytest.mark.parametrize("table", [ENABLED, DISABLED], ids=["enabled", "disabled"])
def test_the_table_of_rights_has_every_role_and_every_right(table: dict[Right, tuple[Refusal, ...]]) -> None:
    assert set(ROLES) == {None, *Role}
    assert set(table) == set(Right)


@pytest.mark.parametrize(("caller", "right", "expected"), CELLS)
def test_a_caller_is_refused_exactly_what_the_table_says(
    caller: Caller, right: Right, expected: Refusal
) -> None:
    refused = refusal(caller, right)
    assert (None if refused is None else type(refused)) is expected


@pytest.mark.parametrize(("caller", "right", "expected"), CELLS)
def test_require_raises_the_refusal_and_nothing_else(caller: Caller, right: Right, expected: Refusal) -> None:
    if expected is None:
        require(caller, right)
        return
    with pytest.raises(ParleyError) as raised:
        require(caller, right)
    assert type(raised.value) is expected


@pytest.mark.parametrize("right", Right)
def test_the_roles_of_a_right_are_those_that_the_table_lets_in(right: Right) -> None:
    let_in = [role for role, expected in zip(ROLES, ENABLED[right], strict=True) if expected is None]
    # A store passes them to its driver, which knows text and no enumeration.
    assert [type(role) for role in roles(right)] == [str] * len(let_in)
    assert sorted(roles(right)) == sorted(role.value for role in let_in if role is not None)


def test_a_caller_is_enabled_unless_the_store_says_otherwise() -> None:
    assert Caller(Role.OWNER) == Caller(Role.OWNER, disabled=False)


@pytest.mark.parametrize("right", Right)
def test_a_disabled_user_is_told_not_found_about_what_belongs_to_others(right: Right) -> None:
    told = {
        (type(refused), refused.message, str(refused.details()))
        for disabled in (False, True)
        if (refused := refusal(Caller(None, disabled), right)) is not None
    }
    assert told == {(NotFound, NotFound().message, "{}")}
