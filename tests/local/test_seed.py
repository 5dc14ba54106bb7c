"""The demo data."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from local.seed import seed
from parley.postgres.catalogue import CatalogueError, read

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT / 'layers' / 'common'}{os.pathsep}{ROOT}"}
PLAN = """
[[plans]]
id = "free"
title = "Free"
default = true
"""

MODEL = """
[[models]]
id = "demo"
title = "{title}"
provider = "demo"
name = "demo"
plans = {plans}
max_output_tokens = 10
context_characters = 100
"""
FREE = MODEL.format(title="Demo", plans='["free"]')
ON_OFFER = "select id from models where enabled order by rank"


async def rows(database_url: str, query: str) -> list[tuple[object, ...]]:
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        return await (await connection.execute(query.encode())).fetchall()


async def test_two_users_two_plans_and_models_of_every_provider(demo_database_url: str) -> None:
    users = await rows(demo_database_url, "select id, plan_id from users order by id")
    assert users == [("demo-free", "free"), ("demo-pro", "pro")]
    providers = await rows(demo_database_url, "select distinct provider from models order by 1")
    assert providers == [("anthropic",), ("demo",), ("openai",), ("xai",)]
    missing = "select id from models where id not in (select model_id from plan_models where plan_id = 'pro')"
    assert await rows(demo_database_url, missing) == []


async def test_a_second_seed_changes_only_what_the_catalogue_changed(
    demo_database_url: str, tmp_path: Path
) -> None:
    catalogue = tmp_path / "catalogue.toml"
    catalogue.write_text(MODEL.format(title="New", plans='["pro"]'))
    count = "select count(*) from models"
    before = await rows(demo_database_url, count)
    await seed(demo_database_url, catalogue)
    assert await rows(demo_database_url, count) == before
    assert await rows(demo_database_url, ON_OFFER) == [("demo",)]
    assert await rows(demo_database_url, "select title from models where id = 'demo'") == [("New",)]
    plans = await rows(demo_database_url, "select plan_id from plan_models where model_id = 'demo'")
    assert plans == [("pro",)]


async def test_two_servers_may_seed_at_once(database_url: str) -> None:
    await asyncio.gather(*(seed(database_url) for _ in range(4)))
    assert await rows(database_url, "select count(*) from users") == [(2,)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("plans = 5", ["plans", "list"]),
        ("[[plan]]\nid = 'x'", ["plan", "not permitted"]),
        ("[[plans]]\ntitle = 'X'\ndefault = true", ["plans, entry 1, id", "required"]),
        ("[[plans]]\nid = 'x'\ntitle = 5\ndefault = true", ["plans, x, title", "string"]),
        ("[[plans]]\nid = 'x'\ntitle = 'X'", ["plans", "exactly one", "default = true", "none"]),
        (PLAN + PLAN, ["plans, free, id", "another entry"]),
        (PLAN + PLAN.replace("free", "pro"), ["plans", "exactly one", "free, pro"]),
        (PLAN + "requests_per_minute = '5'", ["plans, free, requests_per_minute", "integer"]),
        (PLAN + "concurrent_streams = 0", ["plans, free, concurrent_streams", "greater than or equal to 1"]),
        (PLAN + "tokens_per_day = 1.5", ["plans, free, tokens_per_day", "integer"]),
        (PLAN + "tokens_per_dya = 5", ["plans, free, tokens_per_dya", "not permitted"]),
        (PLAN + "tokens_per_day = 34\n" + FREE, ["plans, free, tokens_per_day", "demo", "35 tokens"]),
        (FREE.replace("= 10\n", "= 'many'\n"), ["models, demo, max_output_tokens", "integer"]),
        (FREE + "enabled = 'no'", ["models, demo, enabled", "boolean"]),
        (FREE.replace('["free"]', '["gold"]'), ["models, demo, plans", "no plan 'gold'"]),
        (FREE.replace('["free"]', '"free"'), ["models, demo, plans", "list"]),
        (FREE + "prices = { input = -1, output = 1 }", ["models, demo, prices.input", "greater than"]),
        (FREE + "prices = { input = 1 }", ["models, demo, prices.output", "required"]),
        (
            FREE.replace('provider = "demo"', 'provider = "acme"'),
            ["models, demo, provider", "anthropic, demo, openai"],
        ),
        (FREE + FREE, ["models, demo, id", "another entry"]),
        (FREE + "context_tokens = 100", ["models, demo", "either context_characters or context_tokens"]),
        (FREE.replace("context_characters = 100", ""), ["models, demo", "either context_characters or"]),
        (FREE.replace("context_characters = 100", "context_tokens = 0"), ["demo, context_tokens", "greater"]),
        (
            FREE.replace("context_characters = 100", "context_tokens = '9'"),
            ["demo, context_tokens", "integer"],
        ),
        (FREE + "attempts = 0", ["models, demo, attempts", "greater than or equal to 1"]),
        (FREE + "first_token_seconds = inf", ["models, demo, first_token_seconds", "finite"]),
        (FREE + "output_limit = 'n_predict'", ["models, demo, output_limit", "max_completion_tokens"]),
        (FREE + "stream_usage = 'no'", ["models, demo, stream_usage", "boolean"]),
    ],
)
async def test_what_makes_no_sense_is_named_and_changes_nothing(
    demo_database_url: str, tmp_path: Path, text: str, words: list[str]
) -> None:
    catalogue = tmp_path / "catalogue.toml"
    catalogue.write_text(text)
    everything = "select p::text from plans p union all select m::text from models m order by 1"
    before = await rows(demo_database_url, everything)
    with pytest.raises(CatalogueError) as refused:
        await seed(demo_database_url, catalogue)
    for word in words:
        assert word in str(refused.value)
    assert await rows(demo_database_url, everything) == before


async def test_what_a_model_s_server_wants_is_stored_with_it(demo_database_url: str, tmp_path: Path) -> None:
    catalogue = tmp_path / "catalogue.toml"
    query = "select options, context_characters from models where id = 'demo'"
    bounded = FREE.replace("context_characters = 100", "context_tokens = 50")
    options = "first_token_seconds = 900\nattempts = 1\noutput_limit = 'max_tokens'\nstream_usage = false"
    for text, expected in (
        (bounded, ({"context_tokens": 50}, 200)),
        (bounded + options, ({"context_tokens": 50, "first_token_seconds": 900, "attempts": 1,
                              "output_limit": "max_tokens", "stream_usage": False}, 200)),
        (FREE, ({}, 100)),
    ):  # fmt: skip
        catalogue.write_text(text)
        await seed(demo_database_url, catalogue)
        assert await rows(demo_database_url, query) == [expected]


async def test_plans_follow_the_catalogue(demo_database_url: str, tmp_path: Path) -> None:
    limits = (
        "select id, is_default, requests_per_minute, concurrent_streams, tokens_per_day from plans order by 1"
    )
    for _, _, *counts in await rows(demo_database_url, limits):
        assert all(counts)
    catalogue = tmp_path / "catalogue.toml"
    catalogue.write_text(
        PLAN.replace('"free"', '"team"') + 'requests_per_minute = 5\n[[plans]]\nid = "pro"\ntitle = "Pro"'
    )
    untouched = await rows(demo_database_url, limits)
    await seed(demo_database_url, catalogue)
    assert await rows(demo_database_url, limits) == [
        (untouched[0][0], False, *untouched[0][2:]),
        ("pro", False, None, None, None),
        ("team", True, 5, None, None),
    ]


async def test_a_catalogue_may_have_other_plans(database_url: str, tmp_path: Path) -> None:
    catalogue = tmp_path / "catalogue.toml"
    catalogue.write_text(PLAN.replace('"free"', '"team"') + '[[plans]]\nid = "pro"\ntitle = "Pro"\n')
    await seed(database_url, catalogue)
    users = await rows(database_url, "select id, plan_id from users order by id")
    assert users == [("demo-free", "team"), ("demo-pro", "pro")]


async def test_users_and_models_follow_another_catalogue_and_come_back(
    demo_database_url: str, tmp_path: Path
) -> None:
    async with await psycopg.AsyncConnection.connect(demo_database_url) as connection:
        await connection.execute("insert into users (id, plan_id) values ('ada', 'pro'), ('bob', 'free')")
    users = "select id, plan_id from users order by id"
    before = await rows(demo_database_url, users)
    offered = await rows(demo_database_url, ON_OFFER)
    own = tmp_path / "own.toml"
    own.write_text(
        PLAN.replace('"free"', '"team"')
        + MODEL.format(title="Mine", plans='["team"]').replace('"demo"', '"mine"', 1)
    )
    await seed(demo_database_url, own)
    assert await rows(demo_database_url, users) == [(name, "team") for name, _ in before]
    assert await rows(demo_database_url, ON_OFFER) == [("mine",)]
    # Without models or without plans, what is on offer and who is on which plan is not what it speaks of.
    own.write_text(PLAN.replace('"free"', '"team"'))
    await seed(demo_database_url, own)
    assert await rows(demo_database_url, ON_OFFER) == [("mine",)]
    await seed(demo_database_url)
    assert await rows(demo_database_url, ON_OFFER) == offered
    back = {"ada": "free", "bob": "free", "demo-free": "free", "demo-pro": "pro"}
    assert await rows(demo_database_url, users) == sorted(back.items())
    # A plan that somebody was given is kept where the catalogue has it.
    async with await psycopg.AsyncConnection.connect(demo_database_url) as connection:
        await connection.execute("update users set plan_id = 'pro' where id in ('ada', 'demo-free')")
    await seed(demo_database_url)
    assert await rows(demo_database_url, users) == sorted((back | {"ada": "pro", "demo-free": "pro"}).items())


async def test_prices_are_kept_exactly(demo_database_url: str, tmp_path: Path) -> None:
    prices = "select input_price::text, output_price::text from models where id = 'demo'"
    catalogue = tmp_path / "catalogue.toml"
    catalogue.write_text(FREE + "prices = { input = 0.15, output = 2 }")
    await seed(demo_database_url, catalogue)
    assert await rows(demo_database_url, prices) == [("0.15", "2")]
    catalogue.write_text(FREE)
    await seed(demo_database_url, catalogue)
    assert await rows(demo_database_url, prices) == [(None, None)]


def test_what_make_seed_sends_is_what_the_function_loads(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "local.seed"]
    sent = subprocess.run(command, capture_output=True, check=True, cwd=ROOT, env=ENVIRONMENT).stdout
    catalogue = read(json.loads(sent)["Catalogue"])
    assert [plan.id for plan in catalogue.plans] == ["free", "pro"]
    assert "demo" in [model.id for model in catalogue.models]
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(PLAN + "tokens_per_day = 'all'")
    refused = subprocess.run(
        [*command, str(wrong)], check=False, capture_output=True, cwd=ROOT, env=ENVIRONMENT, text=True
    )
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "plans, free, tokens_per_day" in refused.stderr
