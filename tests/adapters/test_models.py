"""Which models an installation can ask."""

import asyncio
import subprocess
import sys

import pytest

from local.fake_provider import FakeProvider
from parley.adapters.models import ConfiguredModels
from parley.errors import ProviderFault
from parley.events import Finish
from parley.settings import Settings
from tests.adapters.chat_models import KEY, question

ALL = Settings(openai_api_key=KEY, anthropic_api_key=KEY, xai_api_key=KEY, demo_model=True)


@pytest.mark.parametrize("provider", ["openai", "anthropic", "xai", "demo"])
def test_makes_each_once(provider: str) -> None:
    models = ConfiguredModels(ALL)
    assert models.version(provider) == f"{provider}/1"
    assert models.of(provider) is models.of(provider)


@pytest.mark.parametrize(
    ("provider", "name"),
    [("openai", "OpenAI"), ("anthropic", "Anthropic"), ("xai", "xAI"), ("demo", "demo"), ("x", "")],
)
def test_37_missing_key(provider: str, name: str) -> None:
    models = ConfiguredModels(Settings(openai_api_key=" \n"))
    for _ in range(2):
        with pytest.raises(ProviderFault) as caught:
            models.of(provider)
        assert (caught.value.fault, caught.value.may_retry) == ("model_not_configured", False)
        assert name in caught.value.message


def test_37_one_missing_key_leaves_the_others() -> None:
    models = ConfiguredModels(Settings(xai_api_key=KEY))
    with pytest.raises(ProviderFault):
        models.of("openai")
    assert [models.version(provider) for provider in ("xai", "openai", "x")] == ["xai/1", "openai/1", ""]
    assert [models.has(provider) for provider in ("xai", "openai", "anthropic", "x")] == [
        True, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["sk-\u2026abc", "sk-a\nX-Evil: 1", "sk-\x00"])
def test_37_what_cannot_be_a_key_is_not_quoted(key: str) -> None:
    with pytest.raises(ProviderFault) as caught:
        ConfiguredModels(Settings(openai_api_key=key)).of("openai")
    assert caught.value.fault == "provider_auth"
    assert "sk-" not in caught.value.message


async def test_a_compatible_server_needs_no_key() -> None:
    async with FakeProvider() as fake:
        models = ConfiguredModels(Settings(openai_base_url=fake.openai_url))
        events = [event async for event in models.of("openai").stream(question())]
        assert isinstance(events[-1], Finish)
        await models.close()
        await fake.until(lambda: fake.stats.open_connections == 0)


async def test_a_key_s_file_may_end_in_a_line() -> None:
    async with FakeProvider(api_key=KEY) as fake:
        settings = Settings(anthropic_api_key=f"{KEY}\n", anthropic_base_url=fake.anthropic_url)
        models = ConfiguredModels(settings)
        assert [event async for event in models.of("anthropic").stream(question())]
        await models.close()


async def test_the_keys_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.setenv(name, "sk-from-the-environment")
    async with FakeProvider() as fake:
        settings = Settings(
            openai_base_url=fake.openai_url, anthropic_base_url=fake.url, anthropic_api_key=KEY
        )
        models = ConfiguredModels(settings)
        await asyncio.gather(*(anext(models.of(name).stream(question())) for name in ("openai", "anthropic")))
        assert "environment" not in repr(fake.requests)
        await models.close()


def test_no_sdk_is_loaded_before_a_question() -> None:
    script = """
import sys
from parley.adapters.models import ConfiguredModels
from parley.settings import Settings
models = ConfiguredModels(Settings(openai_api_key="k", anthropic_api_key="k", xai_api_key="k"))
print([models.of(name) for name in ("openai", "anthropic", "xai")])
print(sorted({"openai", "anthropic", "httpx2", "aiohttp", "pydantic"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": "layers/common"}, capture_output=True, check=True
    )
    assert done.stdout.decode().splitlines()[-1] == "[]"
