"""A refusal leaves one line, by which an operator can count and nobody else can tell who it was."""

import asyncio
import logging
from typing import Any

import pytest

from parley.domain.ids import pseudonym
from tests.functions.in_process import Site, history, site, start

SECRET = "a secret that only this test knows, long enough"
LAMBDA_AND_LAPTOP = pytest.mark.parametrize("documented", [False, True])


def refusals(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return the fields of the refusals' lines, and forget them."""
    records = [record for record in caplog.records if record.message == "request_refused"]
    caplog.clear()
    names = ("code", "path", "user")
    return [{name: vars(record)[name] for name in names if name in vars(record)} for record in records]


async def ask(here: Site, caplog: pytest.LogCaptureFixture, **body: Any) -> list[dict[str, Any]]:
    headers = {"authorization": f"Bearer of-{body.pop('token')}"} if "token" in body else {}
    await here.http.post("/chat/start", json={"prompt": "Hello?", "modelId": "small"} | body, headers=headers)
    return refusals(caplog)


@LAMBDA_AND_LAPTOP
async def test_a_refusal_has_one_line_with_its_code_its_path_and_a_pseudonym(
    documented: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "parley")
    name = pseudonym(SECRET, "ada")
    async with site(start.OPERATIONS, documented=documented, key_secret=SECRET) as here:
        found = await ask(here, caplog, userId="ada", modelId="none")
        assert found == [{"code": "unknown_model", "path": "/chat/start", "user": name}]
        # The same user has the same name; a refusal before anybody is known has none.
        found = await ask(here, caplog, userId="ada", chatId="of-nobody")
        assert found == [{"code": "not_found", "path": "/chat/start", "user": name}]
        found = await ask(here, caplog, userId="two words")
        assert found == [{"code": "invalid_request", "path": "/chat/start"}]
        assert await ask(here, caplog, userId="ada") == []
        await here.http.get("/nowhere/of-anybody")
        assert refusals(caplog) == []


@LAMBDA_AND_LAPTOP
async def test_who_claims_to_be_somebody_else_is_counted_as_who_they_are(
    documented: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "parley")
    async with site(start.OPERATIONS, documented=documented, auth_mode="jwt", key_secret=SECRET) as here:
        found = await ask(here, caplog, token="ada", userId="bob")
        assert found == [{"code": "forbidden", "path": "/chat/start", "user": pseudonym(SECRET, "ada")}]
        found = await ask(here, caplog, userId="bob")
        assert found == [{"code": "unauthorized", "path": "/chat/start"}]


async def test_reads_and_writes_of_one_user_are_counted_together(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "parley")
    async with site(history.OPERATIONS, key_secret=SECRET) as here:
        await asyncio.gather(
            here.http.get("/chat/history", params={"userId": "ada", "chatId": "of-nobody"}),
            here.http.get("/chat/history", params={"userId": "bob", "chatId": "of-nobody"}),
        )
        found = refusals(caplog)
    assert {line["user"] for line in found} == {pseudonym(SECRET, "ada"), pseudonym(SECRET, "bob")}
    assert {line["path"] for line in found} == {"/chat/history"}


def test_a_pseudonym_tells_nobody_without_the_secret_whose_it_is() -> None:
    name = pseudonym(SECRET, "ada")
    assert len(name) == 12
    assert name == pseudonym(SECRET, "ada")
    assert len({name, pseudonym(SECRET, "adb"), pseudonym(SECRET + ".", "ada"), "ada"}) == 4
