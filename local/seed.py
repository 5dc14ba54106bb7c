"""The laptop's demo data: two plans, a user on each, and the models of `catalogue.toml`."""

import tomllib
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

_CATALOGUE = Path(__file__).with_name("catalogue.toml")
_PLANS = (("free", "Free", True), ("pro", "Pro", False))
_USERS = (("demo-free", "free"), ("demo-pro", "pro"))

_MODEL = """
insert into models (id, provider, name, title, system_prompt, max_output_tokens, context_characters,
                    parameters, enabled, rank)
values (%(id)s, %(provider)s, %(name)s, %(title)s, %(system_prompt)s, %(max_output_tokens)s,
        %(context_characters)s, %(parameters)s, %(enabled)s, %(rank)s)
on conflict (id) do update set
    (provider, name, title, system_prompt, max_output_tokens, context_characters, parameters, enabled, rank)
    = (excluded.provider, excluded.name, excluded.title, excluded.system_prompt, excluded.max_output_tokens,
       excluded.context_characters, excluded.parameters, excluded.enabled, excluded.rank)
"""


async def seed(database_url: str, catalogue: Path = _CATALOGUE) -> None:
    """Add plans and users where they are missing, and bring the models to what the catalogue says.

    Models that the catalogue does not name stay as they are. Raises psycopg's errors.
    """
    models = [_row(rank, model) for rank, model in enumerate(_read(catalogue))]
    rights = [(plan, model["id"]) for model in models for plan in model["plans"]]
    connection = await psycopg.AsyncConnection.connect(database_url, connect_timeout=10)
    async with connection, connection.cursor() as cursor:
        await cursor.executemany(
            "insert into plans (id, title, is_default) values (%s, %s, %s) on conflict do nothing", _PLANS
        )
        await cursor.executemany(
            "insert into users (id, plan_id) values (%s, %s) on conflict do nothing", _USERS
        )
        await cursor.executemany(_MODEL, models)
        await cursor.execute("delete from plan_models where model_id = any(%s)", [[m["id"] for m in models]])
        await cursor.executemany("insert into plan_models (plan_id, model_id) values (%s, %s)", rights)


def _read(catalogue: Path) -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = tomllib.loads(catalogue.read_text("utf-8"))["models"]
    return models


def _row(rank: int, model: dict[str, Any]) -> dict[str, Any]:
    optional = {"system_prompt": "", "enabled": True}
    return optional | model | {"parameters": Jsonb(model.get("parameters", {})), "rank": rank}
