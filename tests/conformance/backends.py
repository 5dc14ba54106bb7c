"""Where the conformance suites play: a catalogue, users, and clocks that can be moved, per adapter."""

from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import psycopg
import redis.asyncio
from msgspec.structs import astuple, replace

from parley.domain.conversation import Model
from parley.domain.limits import Allowance
from parley.domain.ports import Log, Store
from parley.memory.log import MemoryLog
from parley.postgres.catalogue import load, read
from parley.postgres.pool import Pool
from parley.postgres.store import PostgresStore
from parley.valkey.log import ValkeyLog
from parley.valkey.macs import Macs
from tests.memory_store.store import MemoryStore
from tests.memory_store.tables import MemoryDatabase, ModelRow, PlanRow, UserRow

PLANS: list[dict[str, Any]] = [
    {"id": "free", "title": "Free", "default": True},
    {"id": "pro", "title": "Pro"},
]
MODELS: list[dict[str, Any]] = [
    {"id": "small", "plans": ["free", "pro"]},
    {"id": "large", "plans": ["pro"], "parameters": {"temperature": 0.5}, "system_prompt": "Be kind."},
    {"id": "hidden", "plans": ["free", "pro"], "enabled": False},
]
for _model in MODELS:
    _model |= {"provider": "maker", "name": f"{_model['id']}-1", "title": _model["id"].title()}
    _model |= {"max_output_tokens": 100, "context_characters": 1000}

# What the logs of one installation share.
SECRET = "a secret of the conformance suites, long enough"
MACS = Macs(SECRET)

_DAY_SECONDS = 24 * 60 * 60


class Stage(Protocol):
    """Makes stores that share their data, as several processes do, and changes what no use case does."""

    def store(
        self, owner: str = "here", *, session_seconds: int = 600, create_users: bool = False
    ) -> Store: ...

    async def add_user(self, user_id: str, plan: str) -> None: ...

    async def disable(self, user_id: str) -> None: ...

    async def limit(self, plan: str, allowance: Allowance) -> None: ...

    async def used(self, user_id: str) -> dict[str, tuple[int, int]]: ...

    async def change_model(self, model_id: str) -> None: ...

    async def pass_time(self, seconds: float) -> None: ...

    async def close(self) -> None: ...


class PostgresStage:
    """`Stage` on a database; time passes by making everything older."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stores: list[Store] = []

    def store(self, owner: str = "here", *, session_seconds: int = 600, create_users: bool = False) -> Store:
        connections = Pool(self._url, size=4, timeout=30)
        store = PostgresStore(
            connections, owner=owner, session_seconds=session_seconds, create_users=create_users
        )
        self._stores.append(store)
        return store

    @classmethod
    async def load(cls, url: str) -> "PostgresStage":
        """Return a stage on a migrated database, to which the catalogue is added."""
        await load(url, read({"plans": PLANS, "models": MODELS}, ["maker"]))
        return cls(url)

    async def _execute(self, statement: str, *arguments: object) -> list[Any]:
        connection = await psycopg.AsyncConnection.connect(self._url, autocommit=True)
        async with connection:
            cursor = await connection.execute(statement.encode(), arguments)
            return await cursor.fetchall() if cursor.description else []

    async def add_user(self, user_id: str, plan: str) -> None:
        await self._execute("insert into users (id, plan_id) values (%s, %s)", user_id, plan)

    async def disable(self, user_id: str) -> None:
        await self._execute("update users set disabled_at = now() where id = %s", user_id)

    async def limit(self, plan: str, allowance: Allowance) -> None:
        await self._execute(
            "update plans set (requests_per_minute, concurrent_streams, tokens_per_day) = (%s, %s, %s)"
            " where id = %s",
            *astuple(allowance),
            plan,
        )

    async def used(self, user_id: str) -> dict[str, tuple[int, int]]:
        rows = await self._execute(
            "select model_id, input_tokens, output_tokens from token_usage"
            " where user_id = %s and day = (now() at time zone 'utc')::date",
            user_id,
        )
        return {model: (given, returned) for model, given, returned in rows}

    async def change_model(self, model_id: str) -> None:
        await self._execute("update models set system_prompt = 'Be brief.' where id = %s", model_id)

    async def pass_time(self, seconds: float) -> None:
        past = "{0} = {0} - make_interval(secs => %s)"
        for table, columns in {
            "sessions": ("created_at", "expires_at", "lease_until", "stop_requested_at", "ended_at"),
            "chats": ("created_at", "updated_at"),
            "messages": ("created_at", "completed_at"),
        }.items():
            changes = ", ".join(past.format(column) for column in columns)
            await self._execute(f"update {table} set {changes}", *[seconds] * len(columns))
        await self._execute("update token_usage set day = day - %s", int(seconds // _DAY_SECONDS))

    async def close(self) -> None:
        for store in self._stores:
            await store.close()


class MemoryStage:
    """`Stage` in memory; time passes by moving the clock."""

    def __init__(self) -> None:
        self._ahead = timedelta()
        self.database = MemoryDatabase(
            clock=lambda: datetime.now(UTC) + self._ahead,
            plans={plan["id"]: PlanRow(plan["title"]) for plan in PLANS},
            default_plan="free",
        )
        for given in MODELS:
            fields = dict(given)
            plans, enabled = tuple(fields.pop("plans")), fields.pop("enabled", True)
            self.database.models[fields["id"]] = ModelRow(Model(**fields), plans, enabled)

    def store(
        self, owner: str = "here", *, session_seconds: int = 600, create_users: bool = False
    ) -> MemoryStore:
        return MemoryStore(
            self.database, owner=owner, session_seconds=session_seconds, create_users=create_users
        )

    async def add_user(self, user_id: str, plan: str) -> None:
        self.database.users[user_id] = UserRow(plan)

    async def disable(self, user_id: str) -> None:
        self.database.users[user_id].disabled = True

    async def limit(self, plan: str, allowance: Allowance) -> None:
        self.database.plans[plan].allowance = allowance

    async def used(self, user_id: str) -> dict[str, tuple[int, int]]:
        today = self.database.clock().date()
        return {
            model: (usage.input_tokens, usage.output_tokens)
            for (user, day, model), usage in self.database.usage.items()
            if (user, day) == (user_id, today)
        }

    async def change_model(self, model_id: str) -> None:
        row = self.database.models[model_id]
        row.model = replace(row.model, system_prompt="Be brief.")

    async def pass_time(self, seconds: float) -> None:
        self._ahead += timedelta(seconds=seconds)

    async def close(self) -> None:
        return


class MemoryLogStage:
    """One log for all, since nobody else can see it; it forgets what it has no room for."""

    def __init__(self) -> None:
        self._log: MemoryLog | None = None

    def log(self, *, lease_seconds: float = 10, cache_seconds: int = 60) -> Log:
        if self._log is None:
            self._log = MemoryLog(lease_seconds=lease_seconds, cache_seconds=cache_seconds, entries=30)
        return self._log

    async def lose(self) -> None:
        for number in range(30):
            await self.log().join(f"filler {number}", "s", "filler", epoch=0, may_create=True)

    async def close(self) -> None:
        return


class ValkeyLogStage:
    """Each log with its own connections."""

    def __init__(self, url: str, prefix: str = "test") -> None:
        self._url = url
        self._prefix = prefix
        self._logs: list[ValkeyLog] = []

    def log(
        self,
        *,
        lease_seconds: float = 10,
        cache_seconds: int = 60,
        prefix: str = "",
        macs: Macs = MACS,
    ) -> Log:
        log = ValkeyLog(
            self._url,
            macs=macs,
            prefix=prefix or self._prefix,
            timeout=20,
            lease_seconds=lease_seconds,
            cache_seconds=cache_seconds,
        )
        self._logs.append(log)
        return log

    async def lose(self) -> None:
        async with redis.asyncio.Redis.from_url(self._url) as server:
            await server.flushdb()

    async def close(self) -> None:
        for log in self._logs:
            await log.close()
