"""Validates a catalogue of plans and models, and writes it into the database."""

from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal

from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from parley.domain.conversation import PROVIDERS, Model, ModelOptions
from parley.domain.limits import CHARACTERS_A_TOKEN, most
from parley.postgres.connecting import plain_connection

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

# The advisory lock's key. Loads are serialised, since two loads may name different default plans.
_LOCK = 0x9A71EA

# The upper bounds are those of Postgres's integer and bigint columns. Prices are not strict, since TOML and
# JSON have no decimal type.
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False, strict=False)]
Price = Annotated[Decimal, Field(ge=0, le=1_000_000, allow_inf_nan=False, strict=False)]


_OPTIONS = set(ModelOptions.__struct_fields__)


class CatalogueError(ValueError):
    """A catalogue is invalid. The message names the table, the entry and the field."""


class _Entry(BaseModel):
    """A table's entry. Unknown fields are errors, so that a misspelt field does not count as absent."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PlanEntry(_Entry):
    """A plan. An absent limit means unlimited."""

    id: Name
    title: Name
    default: bool = False
    requests_per_minute: Count | None = None
    concurrent_streams: Count | None = None
    tokens_per_day: Annotated[int, Field(ge=1, le=2**63 - 1)] | None = None


class Prices(_Entry):
    """Prices in US dollars for one million tokens."""

    input: Price
    output: Price


class ModelEntry(_Entry):
    """A model, and the ids of the plans that include it.

    Either `context_characters` or `context_tokens` bounds the context. The last five fields are
    `ModelOptions`.
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
    # The bound in characters, four times as high, must fit an integer column.
    context_tokens: Annotated[int, Field(ge=1, le=2**29 - 1)] | None = None
    attempts: Annotated[int, Field(ge=1, le=100)] | None = None
    first_token_seconds: Seconds | None = None
    output_limit: Literal["max_tokens", "max_completion_tokens"] | None = None
    stream_usage: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _bound_context(cls, fields: Any) -> Any:
        """Derive `context_characters` from `context_tokens`.

        Reads of a chat and the tokens reserved for a reply are computed from characters.
        """
        if not isinstance(fields, dict):
            return fields
        tokens = fields.get("context_tokens")
        if (tokens is None) == (fields.get("context_characters") is None):
            raise PydanticCustomError("context", "give either context_characters or context_tokens")
        if tokens is None:
            return fields
        # An invalid count becomes 1 here, so that the error names `context_tokens`, the field in the file.
        characters = tokens * CHARACTERS_A_TOKEN if type(tokens) is int and tokens > 0 else 1
        return fields | {"context_characters": characters}

    def options(self) -> dict[str, Any]:
        """Return the fields of `ModelOptions` that the entry sets."""
        return self.model_dump(include=_OPTIONS, exclude_none=True)

    def most_tokens(self) -> int:
        """Return the most tokens that one prompt reserves of a day's limit."""
        return most(
            Model(
                self.id, self.provider, self.name, self.title, self.max_output_tokens,
                self.context_characters, self.system_prompt,
            )
        )  # fmt: skip


class Catalogue(_Entry):
    """The plans and models of a catalogue. Models are listed to users in this order."""

    plans: list[PlanEntry] = []
    models: list[ModelEntry] = []


def read(tables: object, providers: Collection[str] = PROVIDERS) -> Catalogue:
    """Validate a catalogue decoded from TOML or JSON, whose models are of `providers`.

    Raises `CatalogueError`.
    """
    try:
        catalogue = Catalogue.model_validate(tables)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise CatalogueError(f"{_place(tables, first['loc'])}: {first['msg']}.") from None
    for table, entries in (("plans", catalogue.plans), ("models", catalogue.models)):
        _require_once(table, [entry.id for entry in entries])
    for model in catalogue.models:
        if model.provider not in providers:
            raise CatalogueError(
                f"models, {model.id}, provider: must be one of {', '.join(sorted(providers))}."
            )
    defaults = [plan.id for plan in catalogue.plans if plan.default]
    if catalogue.plans and len(defaults) != 1:
        named = ", ".join(defaults) or "none"
        raise CatalogueError(f"plans: exactly one must have default = true, not {named}.")
    return catalogue


def _place(tables: object, place: Sequence[int | str]) -> str:
    """Return the location of an error in words: the table, the entry's id or number, and the field."""
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
    """Insert or update the catalogue's plans and models in one transaction. Return the models' ids.

    Where the catalogue has models, those that it does not name are disabled. Plans that it does not name stay
    as they are, since users are on them. Raises psycopg's errors. Raises `CatalogueError` if a model names an
    unknown plan, or a plan with fewer tokens per day than one prompt to the model may take.
    """
    connection = await plain_connection(database_url)
    async with connection, connection.cursor() as cursor:
        await cursor.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
        # The new default may come before the old one in the file, and a unique index allows one at a time.
        if catalogue.plans:
            await cursor.execute("update plans set is_default = false where is_default")
        await cursor.executemany(_PLAN, [plan.model_dump() for plan in catalogue.plans])
        await cursor.execute("select id, tokens_per_day from plans")
        _check_plans(catalogue, dict(await cursor.fetchall()))
        await cursor.executemany(
            _MODEL, [_model_row(rank, model) for rank, model in enumerate(catalogue.models)]
        )
        # Replaced as a whole, so that a plan loses the models that no longer name it.
        ids = [model.id for model in catalogue.models]
        if ids:
            await cursor.execute("update models set enabled = false where enabled and id <> all(%s)", [ids])
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
