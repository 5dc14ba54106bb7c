"""Who may do what over HTTP: every endpoint for every caller, in both identity modes, as one table."""

import copy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest

from functions.stream import app as stream
from parley.api.app import create_app
from parley.domain.conversation import Reply
from parley.domain.events import Completed, FinishReason
from tests.functions.in_process import Site, history, site, start

OPERATIONS = [*start.OPERATIONS, *history.OPERATIONS, *stream.OPERATIONS]

# -- the endpoints ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Thing:
    """What a request is about: a chat whose reply has ended, and a session in another chat that waits."""

    chat_id: str
    session_id: str


NOTHING = Thing("unheard-of", "unheard-of")


@dataclass(frozen=True)
class Endpoint:
    """A request without its caller; `chat` and `session` name the fields that take the ids of a thing."""

    method: str
    path: str
    fields: dict[str, Any]
    chat: str | None = None
    session: str | None = None

    @property
    def takes_an_id(self) -> bool:
        return (self.chat or self.session) is not None

    def about(self, thing: Thing) -> dict[str, Any]:
        """Return the fields, with the ids of a thing."""
        ids = {self.chat: thing.chat_id, self.session: thing.session_id}
        return self.fields | {name: value for name, value in ids.items() if name is not None}


_ASKED = {"prompt": "And?", "modelId": "small"}

ENDPOINTS = {
    "start": Endpoint("POST", "/chat/start", _ASKED),
    "start in a chat": Endpoint("POST", "/chat/start", _ASKED, chat="chatId"),
    "regenerate": Endpoint("POST", "/chat/start", {"modelId": "small", "regenerate": True}, chat="chatId"),
    "stop": Endpoint("POST", "/chat/stop", {}, session="sessionId"),
    "history": Endpoint("GET", "/chat/history", {}, chat="chatId"),
    "list": Endpoint("GET", "/chat/list", {}),
    "models": Endpoint("GET", "/chat/models", {}),
    "stream": Endpoint("GET", "/chat/stream", {}, session="sessionId"),
}

# -- the callers -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Caller:
    """A user who asks about ada's things. `claims` is the userId beside a token, where one is sent.

    In trusted mode the user is sent as the userId, in jwt mode as a token's subject.
    """

    user: str | None
    disabled: bool = False
    claims: str | None = None
    modes: tuple[str, ...] = ("trusted", "jwt")

    def fields(self, mode: str) -> dict[str, str]:
        claimed = self.user if mode == "trusted" else self.claims
        return {} if claimed is None else {"userId": claimed}

    def headers(self, mode: str) -> dict[str, str]:
        return {} if mode == "trusted" or self.user is None else {"authorization": f"Bearer of-{self.user}"}


CALLERS = {
    "owner": Caller("ada"),
    "disabled owner": Caller("ada", disabled=True),
    "stranger": Caller("bob"),
    "disabled stranger": Caller("bob", disabled=True),
    # The stores of these sites make no users, in jwt mode either; the last test's store does.
    "unknown user": Caller("eve"),
    "caller without a name": Caller(None, modes=("trusted",)),
    "caller without a token": Caller(None, modes=("jwt",)),
    "stranger as the owner": Caller("bob", claims="ada", modes=("jwt",)),
}

# -- the table -------------------------------------------------------------------------------------

Outcome = tuple[int, str | None]
OK, MADE, TAKEN = (200, None), (201, None), (202, None)
NAMELESS, NO_TOKEN, IMPOSTOR = (400, "invalid_request"), (401, "unauthorized"), (403, "forbidden")
DISABLED, UNKNOWN = (403, "user_disabled"), (404, "not_found")

# Two rows have a session's id as the right: a stream is everybody's who knows it, and in trusted mode a stop
# without a userId.
TABLE: dict[str, tuple[Outcome, ...]] = {
    #                   owner  disabled  stranger disabled  no user  no name   no token  impostor
    "start":           (MADE,  DISABLED, MADE,    DISABLED, UNKNOWN, NAMELESS, NO_TOKEN, IMPOSTOR),
    "start in a chat": (MADE,  DISABLED, UNKNOWN, DISABLED, UNKNOWN, NAMELESS, NO_TOKEN, IMPOSTOR),
    "regenerate":      (MADE,  DISABLED, UNKNOWN, DISABLED, UNKNOWN, NAMELESS, NO_TOKEN, IMPOSTOR),
    "stop":            (TAKEN, TAKEN,    UNKNOWN, UNKNOWN,  UNKNOWN, TAKEN,    NO_TOKEN, IMPOSTOR),
    "history":         (OK,    DISABLED, UNKNOWN, UNKNOWN,  UNKNOWN, NAMELESS, NO_TOKEN, IMPOSTOR),
    "list":            (OK,    DISABLED, OK,      DISABLED, UNKNOWN, NAMELESS, NO_TOKEN, IMPOSTOR),
    "models":          (OK,    DISABLED, OK,      DISABLED, UNKNOWN, NAMELESS, NO_TOKEN, IMPOSTOR),
    "stream":          (OK,    DISABLED, OK,      OK,       OK,      OK,       OK,       OK),
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One request in one mode, and what it is answered."""

    mode: str
    endpoint: Endpoint
    caller: Caller
    outcome: Outcome


CELLS = {
    f"{mode}: {caller}: {endpoint}": Cell(mode, ENDPOINTS[endpoint], CALLERS[caller], outcome)
    for endpoint, outcomes in TABLE.items()
    for caller, outcome in zip(CALLERS, outcomes, strict=True)
    for mode in CALLERS[caller].modes
}
REFUSED = [name for name, cell in CELLS.items() if cell.outcome[1] is not None]
FOREIGN = [name for name in REFUSED if CELLS[name].endpoint.takes_an_id and CELLS[name].caller.user != "ada"]


@asynccontextmanager
async def scene(cell: Cell) -> AsyncIterator[tuple[Site, Thing]]:
    """Serve all functions; make ada's things, and disable the caller who is to be disabled."""
    async with site(OPERATIONS, auth_mode=cell.mode) as here:
        ended = await here.process.start("Why?")
        await here.process.store.finish(
            ended.session_id, Reply(1, "Because.", Completed(FinishReason.STOP)), "provider"
        )
        waiting = await here.process.start("Why else?")
        if cell.caller.disabled and cell.caller.user is not None:
            await here.world.stage.disable(cell.caller.user)
        yield here, Thing(ended.chat_id, waiting.session_id)


async def ask(http: httpx.AsyncClient, cell: Cell, thing: Thing) -> httpx.Response:
    """Send a cell's request about a thing."""
    fields = cell.endpoint.about(thing) | cell.caller.fields(cell.mode)
    sent: dict[str, Any] = {"params": fields} if cell.endpoint.method == "GET" else {"json": fields}
    headers = cell.caller.headers(cell.mode)
    return await http.request(cell.endpoint.method, cell.endpoint.path, headers=headers, **sent)


def outcome_of(response: httpx.Response) -> Outcome:
    code = response.json()["error"]["code"] if response.status_code >= 400 else None
    return response.status_code, code


def rows_of(here: Site) -> Any:
    """Return a copy of every row, since a refused stop would change a row and add none."""
    tables = here.world.stage.database
    return copy.deepcopy((tables.users, tables.chats, tables.messages, tables.sessions, tables.usage))


def test_the_table_of_access_has_every_endpoint() -> None:
    served = {(operation.method, operation.path) for operation in OPERATIONS}
    assert {(endpoint.method, endpoint.path) for endpoint in ENDPOINTS.values()} == served
    assert set(TABLE) == set(ENDPOINTS)


@pytest.mark.parametrize("name", CELLS)
async def test_a_caller_is_answered_as_the_table_of_access_says(name: str) -> None:
    async with scene(cell := CELLS[name]) as (here, thing):
        assert outcome_of(await ask(here.http, cell, thing)) == cell.outcome


@pytest.mark.parametrize("name", REFUSED)
async def test_a_refused_request_changes_no_row(name: str) -> None:
    async with scene(cell := CELLS[name]) as (here, thing):
        before = rows_of(here)
        await ask(here.http, cell, thing)
        assert rows_of(here) == before


@pytest.mark.parametrize("name", FOREIGN)
async def test_what_belongs_to_somebody_else_is_answered_like_what_does_not_exist(name: str) -> None:
    async with scene(cell := CELLS[name]) as (here, thing):
        foreign, missing = await ask(here.http, cell, thing), await ask(here.http, cell, NOTHING)
        assert foreign.content == missing.content
        assert (foreign.status_code, foreign.headers) == (missing.status_code, missing.headers)


@pytest.mark.parametrize("endpoint", [name for name, each in ENDPOINTS.items() if each.takes_an_id])
@pytest.mark.parametrize("mode", ["trusted", "jwt"])
async def test_what_does_not_exist_is_not_found_by_a_user_who_owns_other_things(
    mode: str, endpoint: str
) -> None:
    cell = CELLS[f"{mode}: owner: {endpoint}"]
    async with scene(cell) as (here, _):
        assert outcome_of(await ask(here.http, cell, NOTHING)) == UNKNOWN


# -- a store that makes the users of valid tokens --------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "outcome"), [("start", MADE), ("start in a chat", UNKNOWN), ("regenerate", UNKNOWN)]
)
async def test_a_token_s_new_subject_may_start_a_chat_of_its_own_alone(
    endpoint: str, outcome: Outcome
) -> None:
    cell = CELLS[f"jwt: unknown user: {endpoint}"]
    async with scene(cell) as (here, thing):
        # As `bootstrap` has it in jwt mode.
        store = here.world.stage.store("here", create_users=True)
        services = replace(here.services, store=store)
        app = create_app(OPERATIONS, services.settings, lambda: services)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
            assert outcome_of(await ask(http, cell, thing)) == outcome
        owners = {chat.owner_id for chat in here.world.stage.database.chats.values()}
        assert owners == ({"ada", "eve"} if outcome == MADE else {"ada"})
