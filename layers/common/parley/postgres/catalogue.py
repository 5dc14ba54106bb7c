"""Brings plans and models in the database to what a catalogue says."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal

import psycopg
from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from parley.domain.conversation import Model, ModelOptions
from parley.domain.limits import CHARACTERS_A_TOKEN, most

_PLAN = """
insert into plans (id, title, is_default, requests_per_minute, concurrent_streams, tokens_per_day)
values (%(id)s, %(title)s, %(default)s, %(requests_per_minute)s, %(concurrent_streams)s, %(tokens_per_day)s)
on conflict (id) do update set
    (title, is_default, requests_per_minute, concurrent_streams, tokens_per_day)
    = (excluded.title, excluded.is_default, excluded.requests_per_minute, excluded.concurrent_streams,
       excluded.tokens_per_day)
"""

_MODEL = """
insert into models (id, provider, name, title, system_prompt, max_output_tokens, context_characters,
                    parameters, options, enabled, rank, input_price, output_price)
values (%(id)s, %(provider)s, %(name)s, %(title)s, %(system_prompt)s, %(max_output_tokens)s,
        %(context_characters)s, %(parameters)s, %(options)s, %(enabled)s, %(rank)s,
        %(input_price)s, %(output_price)s)
on conflict (id) do update set
    (provider, name, title, system_prompt, max_output_tokens, context_characters, parameters, options,
     enabled, rank, input_price, output_price)
    = (excluded.provider, excluded.name, excluded.title, excluded.system_prompt, excluded.max_output_tokens,
       excluded.context_characters, excluded.parameters, excluded.options,
       excluded.enabled, excluded.rank, excluded.input_price, excluded.output_price)
"""

# Serialises those who load, who may name another plan the default.
_LOCK = 0x9A71EA

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False, strict=False)]
Price = Annotated[Decimal, Field(ge=0, le=1_000_000, allow_inf_nan=False, strict=False)]


_OPTIONS = set(ModelOptions.__struct_fields__)


class CatalogueError(ValueError):
    """A catalogue makes no sense; the message names the table, the entry and the field."""


class _Entry(BaseModel):
    """A table's entry. What is misspelt must not pass for what is left out."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PlanEntry(_Entry):
    """A plan; a limit that is left out is none."""

    id: Name
    title: Name
    default: bool = False
    requests_per_minute: Count | None = None
    concurrent_streams: Count | None = None
    tokens_per_day: Annotated[int, Field(ge=1, le=2**63 - 1)] | None = None


class Prices(_Entry):
    """Dollars for a million tokens."""

    input: Price
    output: Price


class ModelEntry(_Entry):
    """A model, and the plans that include it.

    Its context is bounded by characters or by tokens. The last five are `ModelOptions`.
    """

    id: Name
    provider: Name
    name: Name
    title: Name
    plans: list[str]
    max_output_tokens: Count
    context_characters: Count
    system_prompt: str = ""
    parameters: dict[str, Any] = {}
    enabled: bool = True
    prices: Prices | None = None
    context_tokens: Annotated[int, Field(ge=1, le=2**29 - 1)] | None = None
    attempts: Annotated[int, Field(ge=1, le=100)] | None = None
    first_token_seconds: Seconds | None = None
    output_limit: Literal["max_tokens", "max_completion_tokens"] | None = None
    stream_usage: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _bound_context(cls, fields: Any) -> Any:
        """Bound the context in characters where it is bounded in tokens: what is read, and what is set
        aside.
        """
        if not isinstance(fields, dict):
            return fields
        tokens = fields.get("context_tokens")
        if (tokens is None) == (fields.get("context_characters") is None):
            raise PydanticCustomError("context", "give either context_characters or context_tokens")
        if tokens is None:
            return fields
        # What is no count is refused by its own name.
        characters = tokens * CHARACTERS_A_TOKEN if type(tokens) is int and tokens > 0 else 1
        return fields | {"context_characters": characters}

    def options(self) -> dict[str, Any]:
        """Return what the entry says for `ModelOptions`."""
        return self.model_dump(include=_OPTIONS, exclude_none=True)

    def most_tokens(self) -> int:
        """Return what one question may set aside."""
        return most(
            Model(
                self.id, self.provider, self.name, self.title, self.max_output_tokens,
                self.context_characters, self.system_prompt,
            )
        )  # fmt: skip


class Catalogue(_Entry):
    """Plans and models, in the order in which models are shown."""

    plans: list[PlanEntry] = []
    models: list[ModelEntry] = []


def read(tables: object) -> Catalogue:
    """Check what a catalogue's TOML or JSON says; raises `CatalogueError`."""
    try:
        catalogue = Catalogue.model_validate(tables)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise CatalogueError(f"{_place(tables, first['loc'])}: {first['msg']}.") from None
    for table, entries in (("plans", catalogue.plans), ("models", catalogue.models)):
        _require_once(table, [entry.id for entry in entries])
    defaults = [plan.id for plan in catalogue.plans if plan.default]
    if catalogue.plans and len(defaults) != 1:
        named = ", ".join(defaults) or "none"
        raise CatalogueError(f"plans: exactly one must have default = true, not {named}.")
    return catalogue


def _place(tables: object, place: Sequence[int | str]) -> str:
    """Return a place in words: the table, the entry by its id where it has one, the field."""
    match place:
        case (str(table), int(number), *field):
            entry = tables[table][number] if isinstance(tables, dict) else None
            name = entry.get("id") if isinstance(entry, dict) else None
            words = [f"{table}, {name}" if isinstance(name, str) else f"{table}, entry {number + 1}"]
            return ", ".join([*words, ".".join(map(str, field))] if field else words)
        case _:
            return ".".join(map(str, place)) or "the catalogue"


def _require_once(table: str, ids: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise CatalogueError(f"{table}, {name}, id: there is another entry with this id.")
        seen.add(name)


async def load(database_url: str, catalogue: Catalogue) -> list[str]:
    """Bring plans and models to what the catalogue says, and return the models' ids.

    What it does not name stays as it is. Raises psycopg's errors, and `CatalogueError` where a model names
    a plan that there is not, or one whose day has fewer tokens than one question to it may take.
    """
    connection = await psycopg.AsyncConnection.connect(database_url, connect_timeout=10)
    async with connection, connection.cursor() as cursor:
        await cursor.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
        if catalogue.plans:
            await cursor.execute("update plans set is_default = false where is_default")
        await cursor.executemany(_PLAN, [plan.model_dump() for plan in catalogue.plans])
        await cursor.execute("select id, tokens_per_day from plans")
        _check_plans(catalogue, dict(await cursor.fetchall()))
        await cursor.executemany(
            _MODEL, [_model_row(rank, model) for rank, model in enumerate(catalogue.models)]
        )
        ids = [model.id for model in catalogue.models]
        await cursor.execute("delete from plan_models where model_id = any(%s)", [ids])
        await cursor.executemany(
            "insert into plan_models (plan_id, model_id) values (%s, %s)",
            [(plan, model.id) for model in catalogue.models for plan in sorted(set(model.plans))],
        )
    return ids


def _check_plans(catalogue: Catalogue, tokens_per_day: dict[str, int | None]) -> None:
    for model in catalogue.models:
        for plan in model.plans:
            if plan not in tokens_per_day:
                raise CatalogueError(f"models, {model.id}, plans: there is no plan {plan!r}.")
            tokens = tokens_per_day[plan]
            if tokens is not None and tokens < model.most_tokens():
                raise CatalogueError(
                    f"plans, {plan}, tokens_per_day: one question to the model {model.id} may take"
                    f" {model.most_tokens()} tokens."
                )


def _model_row(rank: int, model: ModelEntry) -> dict[str, Any]:
    prices = model.prices
    return model.model_dump(exclude={"plans", "prices"} | _OPTIONS) | {
        "options": Jsonb(model.options()),
        "parameters": Jsonb(model.parameters),
        "rank": rank,
        "input_price": prices.input if prices else None,
        "output_price": prices.output if prices else None,
    }
