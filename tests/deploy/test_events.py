"""Each sample event is one that its function answers; here in process, on a real Postgres."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest
from aws_lambda_powertools.utilities.typing import LambdaContext

from functions.migrate import app as migrate
from functions.purge import app as purge
from functions.stream import app as stream
from local.embedded import Addresses
from local.sam_local import EVENTS, ROUTES, with_routes
from parley import bootstrap
from parley.aws.secrets import SecretsManager
from parley.settings import Settings
from tests.deploy.templates import ROOT, load, of_type
from tests.functions.in_process import CONTEXT, history, start

RESOURCES = load()["Resources"]
HTTP = {"StartFunction": start, "HistoryFunction": history}


class Context(LambdaContext):
    """What Lambda tells of an invocation."""

    function_name = "parley"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn:aws:lambda:eu-west-1:123456789012:function:parley"
    aws_request_id = "request-1"

    @staticmethod
    def get_remaining_time_in_millis() -> int:
        return 60_000


def event(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "events" / f"{name}.json").read_text("utf-8"))
    return content


@pytest.fixture
def settings(demo_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings as the laptop's, in the environment too."""
    for name, value in {
        "DATABASE_URL": demo_database_url,
        "KEY_SECRET": "s" * 32,
        "AUTH_MODE": "trusted",
        "ALLOW_TRUSTED": "true",
        "DEMO_MODEL": "true",
    }.items():
        monkeypatch.setenv(name, value)
    read = Settings.from_env()
    monkeypatch.setattr(purge, "settings", lambda: read)
    return read


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop where Mangum looks for one."""
    with asyncio.Runner() as runner:
        asyncio.set_event_loop(runner.get_loop())
        yield runner.get_loop()
    asyncio.set_event_loop(None)


def test_every_function_has_a_sample_and_every_sample_a_function() -> None:
    names = {path.stem for path in (ROOT / "events").glob("*.json")}
    assert names == {*EVENTS, "stream"}
    functions = of_type(load(), "AWS::Serverless::Function")
    assert {function for function, _ in EVENTS.values()} == set(functions) - {"StreamFunction"}


@pytest.mark.parametrize("name", [name for name, (function, _) in EVENTS.items() if function in HTTP])
def test_a_function_url_s_event(name: str, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
    function, status = EVENTS[name]
    module = HTTP[function]
    its = bootstrap.build(settings)
    state = module.handler.app.state
    before, state.services = state.services, lambda: its
    try:
        answer = module.handler(event(name), CONTEXT)
    finally:
        state.services = before
        loop.run_until_complete(its.close())
    assert answer["statusCode"] == status, answer["body"]


async def test_the_stream_s_event_is_a_request_of_its_route(settings: Settings) -> None:
    sample = event("stream")
    its = bootstrap.build(settings)
    before, stream.handler.state.services = stream.handler.state.services, lambda: its
    try:
        transport = httpx.ASGITransport(stream.handler)
        async with httpx.AsyncClient(transport=transport, base_url="http://stream") as client:
            url = f"{sample['rawPath']}?{sample['rawQueryString']}"
            answer = await client.request(
                sample["requestContext"]["http"]["method"], url, headers=sample["headers"]
            )
    finally:
        stream.handler.state.services = before
        await its.close()
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.filterwarnings("ignore:No application metrics")
def test_the_scheduler_s_event(settings: Settings) -> None:
    assert set(purge.handler(event("purge"), Context()).values()) == {0}


def test_cloudformation_s_event(settings: Settings) -> None:
    answer = migrate.handler(event("migrate"), Context())
    assert answer["Status"] == "SUCCESS"


def test_cloudformation_lets_the_functions_roles_in(
    own_postgres: Addresses, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = RESOURCES["Schema"]["Properties"]["LetIn"]["Fn::If"]
    user = properties[1]
    monkeypatch.setenv("DATABASE_URL", own_postgres.database_url)
    asked = event("migrate") | {"RequestType": "Update"}
    with psycopg.connect(own_postgres.database_url, autocommit=True) as connection:
        connection.execute("create role rds_iam")
        for let_in, found in ((properties[2], 0), (user, 1)):
            asked["ResourceProperties"]["LetIn"] = let_in
            assert migrate.handler(asked, Context())["Status"] == "SUCCESS"
            roles = connection.execute("select from pg_roles where rolname = %s", [user]).fetchall()
            assert len(roles) == found
    assert f"{user}@" in json.dumps(load()["Globals"])


def test_cloudformation_gives_the_functions_user_its_password(
    own_postgres: Addresses, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {"arn": '{"username": "parley_app", "password": "of-the-secret"}'}
    monkeypatch.setattr(SecretsManager, "fetch", lambda _, arn: held[arn])
    monkeypatch.setattr(migrate, "_put", lambda *_: None)
    monkeypatch.setenv("DATABASE_URL", own_postgres.database_url)
    asked = event("migrate") | {"RequestType": "Update", "ResponseURL": "https://answers.example/"}
    asked["ResourceProperties"] |= {"LetIn": "parley_app", "LetInSecret": "arn"}
    assert migrate.handler(asked, Context())["Status"] == "SUCCESS"
    with psycopg.connect(own_postgres.database_url) as connection:
        said = connection.execute("select rolpassword from pg_authid where rolname = 'parley_app'").fetchone()
        assert said is not None
        assert said[0].startswith("SCRAM-SHA-256$")
    # Of somebody else: the role would have a password that the functions do not have.
    held["arn"] = '{"username": "somebody", "password": "of-the-secret"}'
    answer = migrate.handler(asked, Context())
    assert answer["Status"] == "FAILED"
    assert "LetInSecret" in answer["Reason"]
    assert "of-the-secret" not in answer["Reason"]


def test_a_setting_that_no_function_could_start_with_fails_the_deployment(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bytes] = []
    monkeypatch.setattr(migrate, "_put", lambda _, body: told.append(body))
    monkeypatch.setenv("AUTH_MODE", "jwt")
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "parley-migrate")
    asked = event("migrate") | {"ResponseURL": "https://answers.example/"}
    assert migrate.handler(asked, Context())["Status"] == "FAILED"
    assert json.loads(told[0])["Reason"].startswith("AUTH_MODE=jwt needs JWT_ISSUER.")


def test_sam_local_s_routes_are_the_functions() -> None:
    for function, module in HTTP.items():
        documented = {
            (method.upper(), path)
            for path, methods in module.app.openapi()["paths"].items()
            for method in methods
            if path.startswith("/chat/")
        }
        assert set(ROUTES[function]) == documented
    events = with_routes(load())["Resources"]["StartFunction"]["Properties"]["Events"]
    assert events["stop"] == {"Type": "HttpApi", "Properties": {"Method": "POST", "Path": "/chat/stop"}}
