"""What a start does, rule by rule, decided from a snapshot alone."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from msgspec.structs import replace

from parley.domain import errors
from parley.domain.access import Caller, Role
from parley.domain.conversation import CatalogueEntry, Model, NewSession, Reply, Started
from parley.domain.events import Completed, FinishReason
from parley.domain.limits import Allowance, Bounds, Use
from parley.domain.start import (
    ChatState,
    EarlierStart,
    ModelState,
    Question,
    StartPlan,
    StartSnapshot,
    decide,
)

Fields = dict[str, Any]

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND, TICK = timedelta(seconds=1), timedelta(microseconds=1)
OWNER, STRANGER, BEARER = Caller(Role.OWNER), Caller(None), Caller(Role.BEARER)
PROMPT = "x" * 40
CURRENT = CatalogueEntry("v2", Model("small", "maker", "small-1", "Small", 100, 1000))
MODEL = ModelState("v2", Bounds(100, 1000, 5), in_plan=True, current=CURRENT)
# 40 characters of the prompt and 5 of the system prompt are 11.25 tokens; a reply has up to 100.
RESERVED, TOKENS = (12, 100), 112
CHAT = ChatState(OWNER, next_position=5, characters=500, revision=8, latest=("good", "latest"))
BUSY = replace(CHAT, active="active")
ASKED: Fields = {"chat": CHAT, "question": Question("asked", PROMPT)}
FIRST = Started("first", "its chat", "its message", "its reply", NOW - SECOND)
EARLIER = EarlierStart("ada", "hash", FIRST, cached=False)
IN_CHAT: Fields = {"chat_id": "chat"}
AGAIN: Fields = {"chat_id": "chat", "regenerate": True}
REPLACE: Fields = AGAIN | {"replaces": "latest"}


def new_session(**fields: Any) -> NewSession:
    """Return a question for a new chat, as far as the fields say nothing else."""
    asked = NewSession(
        user_id="ada", prompt=PROMPT, model_id="small", chat_id=None, regenerate=False, idempotency_key=None,
        request_hash="hash", title="X", new_session_id="session", new_chat_id="new chat",
        new_message_id="message", new_reply_id="reply",
    )  # fmt: skip
    return replace(asked, **fields)


def decided(facts: Fields, fields: Fields, seconds: float = 600) -> StartPlan | Started | errors.ParleyError:
    """Decide about a snapshot in which nothing is in the way, as far as the facts say nothing else."""
    found = replace(StartSnapshot(NOW, OWNER, Allowance(), Use(), MODEL), **facts)
    return decide(found, new_session(**fields), seconds)


def planned(facts: Fields, fields: Fields, seconds: float = 600) -> StartPlan:
    plan = decided(facts, fields, seconds)
    assert isinstance(plan, StartPlan)
    return plan


def told(error: object) -> tuple[object, ...]:
    """Return all that a client is told by an error."""
    assert isinstance(error, errors.ParleyError)
    return type(error), error.message, error.details(), error.retry_after


# -- a new chat, and the next question of a chat ---------------------------------------------------


def test_a_new_chat_s_question_is_planned_with_the_new_ids_at_position_1() -> None:
    started = Started("session", "new chat", "message", "reply", NOW + 600 * SECOND, model=CURRENT)
    assert decided({}, {}) == StartPlan(NOW, started, position=1, added=40, reserved=RESERVED)


def test_a_chat_s_next_question_is_planned_at_the_chat_s_next_position() -> None:
    started = Started("session", "chat", "message", "reply", NOW + 600 * SECOND)
    # 500 + 40 + 5 characters are 136.25 tokens.
    plan = StartPlan(NOW, started, position=5, added=40, reserved=(137, 100), revision=9)
    assert decided(ASKED, IN_CHAT) == plan


@pytest.mark.parametrize(
    ("characters", "prompt", "added", "input_tokens"),
    [
        (0, "x" * 39, 39, 11),
        (0, "😀" * 40, 40, 12),
        (955, PROMPT, 40, 250),
        (956, PROMPT, 40, 251),
        # The context takes 1000 characters; a prompt is sent whole.
        (960, PROMPT, 40, 252),
        (5000, "x" * 1200, 1200, 302),
    ],
)
def test_the_reserve_is_the_context_s_tokens_and_the_longest_reply(
    characters: int, prompt: str, added: int, input_tokens: int
) -> None:
    plan = planned({"chat": replace(CHAT, characters=characters)}, IN_CHAT | {"prompt": prompt})
    assert (plan.added, plan.reserved) == (added, (input_tokens, 100))


@pytest.mark.parametrize("prompt", [None, PROMPT])
def test_regenerate_keeps_the_question_and_adds_a_reply_at_the_next_position(prompt: str | None) -> None:
    started = Started("session", "chat", "asked", "reply", NOW + 600 * SECOND)
    # 500 + 5 characters are 126.25 tokens.
    expected = StartPlan(NOW, started, position=5, added=None, reserved=(127, 100), revision=9)
    assert decided(ASKED, AGAIN | {"prompt": prompt}) == expected


def test_regenerate_without_a_chat_is_a_new_question() -> None:
    usual = planned({}, {})
    # A regenerated reply is never a known one, so the model need not be told.
    expected = replace(usual, started=replace(usual.started, model=None))
    assert decided({}, {"regenerate": True}) == expected


@pytest.mark.parametrize("fields", [IN_CHAT, AGAIN], ids=["a new question", "regenerate"])
def test_a_session_that_nobody_came_for_is_ended_by_its_chat_s_next_start(fields: Fields) -> None:
    free, late = planned(ASKED, fields), replace(CHAT, active="late", nobody_came=True)
    assert free.expired is None
    assert decided(ASKED | {"chat": late}, fields) == replace(free, expired="late")


# -- refusals --------------------------------------------------------------------------------------

CONFLICT = errors.IdempotencyConflict()
NO_QUESTION = errors.InvalidRequest("There is no question in this chat to answer again.", field="regenerate")
OTHER_PROMPT = errors.InvalidRequest("With regenerate, prompt must be the chat's last one.", field="prompt")
NO_TOKENS = errors.LimitExceeded("tokens", {"requests": 0, "streams": 0, "tokens": 0}, 12 * 60 * 60)
USED_UP: Fields = {"allowance": Allowance(1, 1, 1), "use": Use(1, NOW, 1, 0, 1)}

# In the order in which they are told.
REFUSALS: dict[str, tuple[Fields, errors.ParleyError]] = {
    "no user": ({"caller": Caller(None, disabled=True)}, errors.NotFound()),
    "a caller who is no owner": ({"caller": Caller(Role.BEARER, disabled=True)}, errors.NotFound()),
    "a disabled user": ({"caller": Caller(Role.OWNER, disabled=True)}, errors.UserDisabled()),
    "another user's session": ({"earlier": replace(EARLIER, user_id="bob")}, CONFLICT),
    "another request's session": ({"earlier": replace(EARLIER, request_hash="other")}, CONFLICT),
    "no model": ({"model": None}, errors.UnknownModel()),
    "a model of other plans": ({"model": replace(MODEL, in_plan=False)}, errors.ModelNotInPlan()),
    "no chat": ({"chat": None}, errors.NotFound()),
    "a stranger's busy chat": ({"chat": replace(BUSY, caller=STRANGER)}, errors.NotFound()),
    "a chat that is only followed": ({"chat": replace(BUSY, caller=BEARER)}, errors.NotFound()),
    "a busy chat": ({"chat": BUSY}, errors.ChatBusy("active")),
    "a chat that has gone on": ({"chat": replace(CHAT, latest=("newer",))}, errors.ChatMoved("latest")),
    "no question": ({"question": None}, NO_QUESTION),
    "a question that differs": ({"question": Question("asked", PROMPT + " ")}, OTHER_PROMPT),
    "a limit": (USED_UP, NO_TOKENS),
}


@pytest.mark.parametrize(
    ("fields", "latest", "moved"),
    [
        ({}, (), None),
        ({}, ("other",), None),
        ({"parent_id": "good"}, ("good",), None),
        # A question may follow a good reply, or a failure that stands beside it.
        ({"parent_id": "good"}, ("good", "failed"), None),
        ({"parent_id": "failed"}, ("good", "failed"), None),
        ({"parent_id": "good"}, ("better",), "good"),
        ({"parent_id": "good"}, (), "good"),
        ({"replaces": "good"}, ("good",), None),
        ({"replaces": "failed"}, ("good", "failed"), None),
        ({"replaces": "good"}, ("good", "failed"), "good"),
        ({"replaces": "good"}, ("better",), "good"),
        ({"replaces": "good"}, (), "good"),
    ],
)
@pytest.mark.parametrize("base", [IN_CHAT, AGAIN], ids=["a new question", "regenerate"])
def test_a_start_is_refused_if_its_user_does_not_know_the_chat_s_end(
    base: Fields, fields: Fields, latest: tuple[str, ...], moved: str | None
) -> None:
    facts = ASKED | {"chat": replace(CHAT, latest=latest)}
    if moved is None:
        assert decided(facts, base | fields) == decided(facts, base)
    else:
        refused = decided(facts, base | fields)
        assert told(refused) == told(errors.ChatMoved(moved))
        assert isinstance(refused, errors.ChatMoved)
        assert refused.known == moved


def refused_by(*names: str) -> Fields:
    """Return a chat in which a question is answered again, with what is in the way; the first name wins."""
    facts = dict(ASKED)
    for name in reversed(names):
        facts |= REFUSALS[name][0]
    return facts


@pytest.mark.parametrize("name", REFUSALS)
def test_a_start_is_refused_for_each_reason_alone(name: str) -> None:
    assert told(decided(refused_by(name), REPLACE)) == told(REFUSALS[name][1])


@pytest.mark.parametrize("name", REFUSALS)
def test_of_many_reasons_for_a_refusal_the_first_one_is_told(name: str) -> None:
    names = list(REFUSALS)
    facts = refused_by(*names[names.index(name) :])
    assert told(decided(facts, REPLACE)) == told(REFUSALS[name][1])


def test_regenerate_with_an_empty_prompt_is_refused_as_with_another_one() -> None:
    assert told(decided(ASKED, AGAIN | {"prompt": ""})) == told(OTHER_PROMPT)


# -- a start that is repeated ----------------------------------------------------------------------

SAME = {"new_session_id": "first"}
EQUAL, OTHER = {"model_version": "v2"}, {"model_version": "v1"}


@pytest.mark.parametrize(
    ("cached", "fields", "answered", "model"),
    [
        (False, {}, False, CURRENT),
        (False, EQUAL, False, None),
        (False, SAME | EQUAL, False, None),
        (True, EQUAL, False, None),
        (True, SAME | EQUAL, True, None),
        (True, SAME | OTHER, True, CURRENT),
        (True, SAME | OTHER | IN_CHAT, True, None),
    ],
)
def test_a_repeated_start_is_answered_as_the_first_one_was(
    cached: bool, fields: Fields, answered: bool, model: CatalogueEntry | None
) -> None:
    expected = replace(FIRST, answered=answered, model=model)
    assert decided({"earlier": replace(EARLIER, cached=cached)}, fields) == expected


@pytest.mark.parametrize("name", list(REFUSALS)[list(REFUSALS).index("no model") :])
def test_a_repeated_start_is_answered_whatever_has_come_in_the_way_since(name: str) -> None:
    assert decided(refused_by(name) | {"earlier": EARLIER}, REPLACE) == FIRST


def test_a_repeated_start_of_a_disabled_user_is_refused() -> None:
    facts = refused_by("a disabled user") | {"earlier": EARLIER}
    assert told(decided(facts, SAME)) == told(errors.UserDisabled())


# -- a known reply ---------------------------------------------------------------------------------

KNOWN = Reply(7, "Because.", Completed(FinishReason.STOP))


@pytest.mark.parametrize(
    ("fields", "answer", "saved", "model", "seconds"),
    [
        (EQUAL, KNOWN, KNOWN, None, (60.0, 300.0)),
        (EQUAL, KNOWN, KNOWN, None, (300.5, 300.5)),
        (EQUAL, None, None, None, (0.5, 0.5)),
        (OTHER, KNOWN, None, CURRENT, (60.0, 60.0)),
        (OTHER, None, None, CURRENT, (60.0, 60.0)),
        ({}, KNOWN, None, CURRENT, (60.0, 60.0)),
        (EQUAL | {"regenerate": True}, KNOWN, None, None, (60.0, 60.0)),
        (OTHER | {"regenerate": True}, KNOWN, None, None, (60.0, 60.0)),
        (EQUAL | IN_CHAT, KNOWN, None, None, (60.0, 60.0)),
        (OTHER | IN_CHAT, KNOWN, None, None, (60.0, 60.0)),
        (EQUAL | AGAIN, KNOWN, None, None, (60.0, 60.0)),
    ],
)
def test_a_known_reply_is_saved_only_in_a_new_chat_and_of_the_current_model(
    fields: Fields, answer: Reply | None, saved: Reply | None, model: object, seconds: tuple[float, float]
) -> None:
    facts = ASKED if "chat_id" in fields else {}
    plan = planned(facts, fields | {"answer": answer}, seconds[0])
    assert (plan.answer, plan.started.answered) == (saved, saved is not None)
    assert (plan.started.model, plan.started.expires_at) == (model, NOW + seconds[1] * SECOND)
    # Nothing else depends on the reply.
    usual = planned(facts, fields)
    assert replace(plan, started=usual.started, answer=None) == usual


# -- limits ----------------------------------------------------------------------------------------

MIDNIGHT, LATEST = NOW - timedelta(hours=12), NOW + timedelta(hours=12) - TICK
IN_KYIV = datetime(2026, 3, 1, 1, tzinfo=timezone(timedelta(hours=2)))
DAY = 24 * 60 * 60.0


@pytest.mark.parametrize(
    ("allowance", "use"),
    [
        (Allowance(2, None, None), Use(requests=1, oldest_request=NOW)),
        (Allowance(None, 2, None), Use(streams=1)),
        (Allowance(None, None, 300), Use(reserved=100, tokens=200 - TOKENS)),
        # None is unlimited, whatever the use.
        (Allowance(), Use(10**9, NOW, 10**9, 10**9, 10**9)),
        (Allowance(None, 1, TOKENS), Use(requests=10**9, oldest_request=NOW)),
        (Allowance(1, None, TOKENS), Use(streams=10**9)),
        (Allowance(1, 1, None), Use(reserved=10**9, tokens=10**9)),
    ],
)
def test_a_question_within_the_plan_s_limits_is_planned(allowance: Allowance, use: Use) -> None:
    assert decided({"allowance": allowance, "use": use}, {}) == decided({}, {})


@pytest.mark.parametrize(
    ("now", "allowance", "use", "limit", "left", "seconds"),
    [
        (NOW, Allowance(2), Use(2, NOW - 20 * SECOND), "requests", (0, None, None), 40.0),
        (NOW, Allowance(2), Use(2, NOW - 60 * SECOND + TICK), "requests", (0, None, None), 1e-6),
        (NOW, Allowance(2), Use(2, NOW), "requests", (0, None, None), 60.0),
        (NOW, Allowance(None, 2), Use(streams=2), "streams", (None, 0, None), 5.0),
        # Charged tokens are in the way until midnight by UTC.
        (NOW, Allowance(None, None, 200), Use(tokens=89), "tokens", (None, None, 111), DAY / 2),
        (MIDNIGHT, Allowance(None, None, 1), Use(), "tokens", (None, None, 1), DAY),
        (LATEST, Allowance(None, None, 1), Use(), "tokens", (None, None, 1), 1e-6),
        (IN_KYIV, Allowance(None, None, 1), Use(), "tokens", (None, None, 1), DAY / 24),
        # Reserved tokens are in the way until a stream ends.
        (NOW, Allowance(None, None, 200), Use(reserved=89), "tokens", (None, None, 111), 5.0),
        (NOW, Allowance(None, None, 200), Use(reserved=1, tokens=88), "tokens", (None, None, 111), 5.0),
        (NOW, Allowance(None, None, 200), Use(reserved=1, tokens=89), "tokens", (None, None, 110), DAY / 2),
        # The longest wait is told first.
        (NOW, Allowance(1, 1, 111), Use(1, NOW, 1), "tokens", (0, 0, 111), DAY / 2),
        (NOW, Allowance(1, 1, 112), Use(1, NOW, 1), "requests", (0, 0, 112), 60.0),
        (NOW, Allowance(2, 1, 112), Use(1, NOW, 1), "streams", (1, 0, 112), 5.0),
        # A limit may sink below what is used.
        (NOW, Allowance(1, 1, 100), Use(3, NOW, 4, 50, 99), "tokens", (0, 0, 0), DAY / 2),
        (NOW, Allowance(2, 1), Use(3, NOW, 4, 50, 99), "requests", (0, 0, None), 60.0),
    ],
)
def test_a_limit_s_refusal_tells_what_is_left_and_when_to_come_back(
    now: datetime, allowance: Allowance, use: Use, limit: str, left: tuple[int | None, ...], seconds: float
) -> None:
    remaining = dict(zip(("requests", "streams", "tokens"), left, strict=True))
    refused = decided({"now": now, "allowance": allowance, "use": use}, {})
    assert told(refused) == told(errors.LimitExceeded(limit, remaining, seconds))
