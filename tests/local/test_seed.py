"""The demo data."""

import asyncio
from pathlib import Path

import psycopg

from local.seed import seed

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
    assert await rows(demo_database_url, "select title from models where id = 'demo'") == [("New",)]
    plans = await rows(demo_database_url, "select plan_id from plan_models where model_id = 'demo'")
    assert plans == [("pro",)]


async def test_two_servers_may_seed_at_once(database_url: str) -> None:
    await asyncio.gather(*(seed(database_url) for _ in range(4)))
    assert await rows(database_url, "select count(*) from users") == [(2,)]
