"""Who is measured: Parley, what its users would pick instead, and the floors."""

from pathlib import Path
from typing import Any, Self

from bench.builds import Build
from bench.driver import post
from bench.install import PEERS, PYTHON, ROOT, node_peer, python_peer
from bench.servers import Command, Contender, settings
from bench.stores import Stores

_LAUNCH = Path(__file__).with_name("launch.py")
KEY_SECRET = "a secret of the benchmark alone, long enough"
# What the upstream understands: how many tokens, and how fast.
MODELS = ("full-1", "full-20", "full-200", "full-2000", "slow-20", "slow-100000")
# Parley's further models: of other providers, and one that is sent little of a long chat.
FURTHER_MODELS = ("claude/full-20", "grok/full-20", "context/full-20")


class Parley(Contender):
    """Parley as the laptop and a container run it: every function in one process, its log and flushes on."""

    role = "parley"
    keeps = caches = True
    saved_first = b""
    prefix = "/api"

    def __init__(self, folder: Path, port: int, stores: Stores, upstream_url: str, build: Build) -> None:
        super().__init__(folder, port, stores, upstream_url)
        self.build = build
        self.label = build.label
        self.database_url = ""

    def install(self) -> None:
        """Make its build's database."""
        self.database_url = self.stores.database(self.build)

    def another(self, port: int) -> Self:
        other = type(self)(self.folder, port, self.stores, self.upstream_url, self.build)
        other.database_url = self.database_url
        return other

    def environment(self) -> dict[str, str]:
        root = self.build.root
        return super().environment() | {
            "DATABASE_URL": self.database_url,
            "VALKEY_PREFIX": self.build.name,
            "PYTHONPATH": f"{root / 'layers/common'}:{root}",
            "OPENAI_API_KEY": "key",
            "ANTHROPIC_API_KEY": "key",
            "ANTHROPIC_BASE_URL": self.upstream_url,
            "XAI_API_KEY": "key",
            "XAI_BASE_URL": f"{self.upstream_url}/v1",
            "KEY_SECRET": KEY_SECRET,
            "AUTH_MODE": "trusted",
            "ALLOW_TRUSTED": "true",
            "SHARE_CONTEXT_FREE": "true",
        }

    def command(self) -> Command:
        command: list[str | Path] = [self.build.python, "-P", _LAUNCH, self.build.root, "uvicorn"]
        command += ["local.server:app", "--host", "127.0.0.1", "--port", str(self.port), *self.build.protocol]
        command += ["--no-access-log", "--log-level", "warning", "--no-server-header"]
        return command, self.environment(), self.build.root


class FloorRelay(Contender):
    """A bare uvloop relay."""

    label = "floor: bare uvloop relay"
    role = "floor"
    relays = True

    def command(self) -> Command:
        return [PYTHON, "-m", "bench.floor.relay", "--port", str(self.port)], self.environment(), ROOT


class FloorStarlette(Contender):
    """A bare relay on Starlette and uvicorn."""

    label = "floor: bare Starlette relay"
    role = "floor"
    relays = True

    def command(self) -> Command:
        command: list[str | Path] = [
            PYTHON,
            "-m",
            "uvicorn",
            "bench.floor.starlette_app:app",
            "--port",
            str(self.port),
        ]
        command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
        return command, self.environment(), ROOT


class FloorStores(Contender):
    """One statement, one command, one write."""

    label = "floor with Postgres and Valkey"
    role = "floor"
    keeps = caches = True
    saved_first = b"&saved=first"

    def command(self) -> Command:
        return [PYTHON, "-m", "bench.floor.stores", "--port", str(self.port)], self.environment(), ROOT


class FastApi(Contender):
    """FastAPI, sse-starlette, AsyncOpenAI, psycopg's pool, redis-py."""

    label = "FastAPI + sse-starlette + AsyncOpenAI"
    relays = keeps = caches = True

    def install(self) -> None:
        python_peer("fastapi")

    def command(self) -> Command:
        command: list[str | Path] = [
            ROOT / ".venv-bench-fastapi/bin/uvicorn",
            "app:app",
            "--port",
            str(self.port),
        ]
        command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
        return command, self.environment(), PEERS / "fastapi"


class Nest(Contender):
    """NestJS @Sse, openai, pg, ioredis."""

    label = "NestJS @Sse + openai + pg + ioredis"
    relays = keeps = caches = True

    def install(self) -> None:
        node_peer("nest")

    def command(self) -> Command:
        env = self.environment() | {"NODE_ENV": "production", "PORT": str(self.port)}
        return ["node", "dist/main.js"], env, PEERS / "nest"


class LiteLlm(Contender):
    """LiteLLM's proxy."""

    label = "LiteLLM proxy"
    relays = True
    slowness = 12
    _key = "sk-bench"

    def install(self) -> None:
        python_peer("litellm")

    def command(self) -> Command:
        config = self.folder / f"{type(self).__name__}.yaml"
        config.write_text(settings(self.configuration()))
        command: list[str | Path] = [ROOT / ".venv-bench-litellm/bin/litellm", "--config", config]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--num_workers", "1"]
        env = {
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_DISABLE_NO_REDIS_WARNING": "true",
            "LITELLM_MASTER_KEY": self._key,
        }
        return command, env, self.folder

    def configuration(self) -> dict[str, Any]:
        """Return what LiteLLM's page on production advises, without a database: this proxy keeps nothing."""
        models = [
            {
                "model_name": model,
                "litellm_params": {
                    "model": f"openai/{model}",
                    "api_base": f"{self.upstream_url}/v1",
                    "api_key": "key",
                },
            }
            for model in MODELS
        ]
        return {
            "model_list": models,
            "general_settings": {"master_key": self._key},
            "litellm_settings": {"request_timeout": 600, "set_verbose": False, "json_logs": True},
        }

    def relay_request(self, prompt: str, model: str) -> bytes:
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": True}
        return post("/v1/chat/completions", body, f"authorization: Bearer {self._key}\r\n")


class LiteLlmCached(LiteLlm):
    """LiteLLM's proxy with its Redis cache."""

    label = "LiteLLM proxy, Redis cache"
    relays = False  # it would be the same figures again
    caches = True

    def configuration(self) -> dict[str, Any]:
        configuration = super().configuration()
        valkey = self.stores.valkey
        configuration["litellm_settings"] |= {
            "cache": True,
            "cache_params": {
                "type": "redis",
                "host": valkey.hostname,
                "port": valkey.port,
                "password": valkey.password,
                "ttl": 3600,
            },
        }
        return configuration


ALL: tuple[type[Contender], ...] = (
    FloorRelay, FloorStarlette, FloorStores, Parley, FastApi, Nest, LiteLlm, LiteLlmCached,
)  # fmt: skip
