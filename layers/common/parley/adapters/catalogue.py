"""Brings plans and models in the database to what a catalogue says."""

from typing import Any

import psycopg
from psycopg.types.json import Jsonb

_PLANS = (("free", "Free", True), ("pro", "Pro", False))

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


async def load(database_url: str, models: list[dict[str, Any]]) -> list[str]:
    """Add the plans where they are missing, bring the models to what is given, and return their ids.

    Models that are not given stay as they are. Raises psycopg's errors and `KeyError`.
    """
    rows = [_row(rank, model) for rank, model in enumerate(models)]
    rights = [(plan, row["id"]) for row in rows for plan in row["plans"]]
    connection = await psycopg.AsyncConnection.connect(database_url, connect_timeout=10)
    async with connection, connection.cursor() as cursor:
        await cursor.executemany(
            "insert into plans (id, title, is_default) values (%s, %s, %s) on conflict do nothing", _PLANS
        )
        await cursor.executemany(_MODEL, rows)
        await cursor.execute(
            "delete from plan_models where model_id = any(%s)", [[row["id"] for row in rows]]
        )
        await cursor.executemany("insert into plan_models (plan_id, model_id) values (%s, %s)", rights)
    return [row["id"] for row in rows]


def _row(rank: int, model: dict[str, Any]) -> dict[str, Any]:
    optional = {"system_prompt": "", "enabled": True}
    return optional | model | {"parameters": Jsonb(model.get("parameters", {})), "rank": rank}
