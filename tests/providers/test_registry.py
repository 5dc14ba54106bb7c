"""Which models an installation can ask."""

import asyncio
import subprocess
import sys

import pytest

from local.fake_provider import FakeProvider
from parley.domain.conversation import PROVIDERS
from parley.domain.errors import ProviderFault
from parley.domain.events import Finish
from parley.providers.registry import _ADAPTERS, ConfiguredModels
from parley.settings import Settings
from tests.providers.chat_models import KEY, question

ALL = Settings(openai_api_key=KEY, anthropic_api_key=KEY, xai_api_key=KEY, demo_model=True)


VERSIONS = {
    "openai": "openai/2 api.openai.com/v1",
    "anthropic": "anthropic/2 api.anthropic.com",
    "xai": "xai/2 api.x.ai/v1",
    "demo": "demo/1",
}


@pytest.mark.parametrize("provider", ["openai", "anthropic", "xai", "demo"])
def test_each_provider_s_model_is_made_once(provider: str) -> None:
    models = ConfiguredModels(ALL)
    assert models.version(provider) == VERSIONS[provider]
    assert models.get(provider) is models.get(provider)


@pytest.mark.parametrize(
    ("provider", "name"),
    [("openai", "OpenAI"), ("anthropic", "Anthropic"), ("xai", "xAI"), ("demo", "demo"), ("x", "")],
)
def test_37_missing_key(provider: str, name: str) -> None:
    models = ConfiguredModels(Settings(openai_api_key=" \n"))
    for _ in range(2):
        with pytest.raises(ProviderFault) as caught:
            models.get(provider)
        assert (caught.value.fault, caught.value.may_retry) == ("model_not_configured", False)
        assert name in caught.value.message


def test_37_one_missing_key_leaves_the_others() -> None:
    models = ConfiguredModels(Settings(xai_api_key=KEY))
    with pytest.raises(ProviderFault):
        models.get("openai")
    assert [models.version(name) for name in ("xai", "openai", "x")] == [
        *map(VERSIONS.get, ("xai", "openai")),
        "",
    ]
    assert [models.has(provider) for provider in ("xai", "openai", "anthropic", "x")] == [
        True, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["sk-\u2026abc", "sk-a\nX-Evil: 1", "sk-\x00"])
def test_37_what_cannot_be_a_key_is_not_quoted(key: str) -> None:
    with pytest.raises(ProviderFault) as caught:
        ConfiguredModels(Settings(openai_api_key=key)).get("openai")
    assert caught.value.fault == "provider_auth"
    assert "sk-" not in caught.value.message


async def test_a_compatible_server_needs_no_key() -> None:
    async with FakeProvider() as fake:
        models = ConfiguredModels(Settings(openai_base_url=fake.openai_url))
        events = [event async for event in models.get("openai").stream(question())]
        assert isinstance(events[-1], Finish)
        await models.close()
        await fake.until(lambda: fake.stats.open_connections == 0, timeout=30)


async def test_a_key_s_file_may_end_in_a_line() -> None:
    async with FakeProvider(api_key=KEY) as fake:
        settings = Settings(anthropic_api_key=f"{KEY}\n", anthropic_base_url=fake.anthropic_url)
        models = ConfiguredModels(settings)
        assert [event async for event in models.get("anthropic").stream(question())]
        await models.close()


async def test_the_keys_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.setenv(name, "sk-from-the-environment")
    async with FakeProvider() as fake:
        settings = Settings(
            openai_base_url=fake.openai_url, anthropic_base_url=fake.url, anthropic_api_key=KEY
        )
        models = ConfiguredModels(settings)
        await asyncio.gather(
            *(anext(models.get(name).stream(question())) for name in ("openai", "anthropic"))
        )
        assert "environment" not in repr(fake.requests)
        await models.close()


@pytest.mark.parametrize(
    ("url", "version"),
    [
        ("https://api.openai.com/v1/", "openai/2 api.openai.com/v1"),
        ("http://127.0.0.1:8080/v1", "openai/2 127.0.0.1:8080/v1"),
        ("http://127.0.0.1:8081/v1", "openai/2 127.0.0.1:8081/v1"),
        ("http://127.0.0.1:8080/other/v1", "openai/2 127.0.0.1:8080/other/v1"),
        ("https://user:password@Gateway.example/v1?key=1", "openai/2 gateway.example/v1"),
    ],
)
def test_the_server_is_part_of_the_version_without_a_login(url: str, version: str) -> None:
    assert ConfiguredModels(Settings(openai_base_url=url)).version("openai") == version


async def test_settings_of_openai_s_sdk_reach_openai_s_server_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-ours")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-ours")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Ours: custom-of-ours")
    async with FakeProvider() as fake:
        settings = Settings(
            openai_base_url=fake.openai_url, xai_base_url=fake.openai_url, anthropic_base_url=fake.url,
            openai_api_key=KEY, xai_api_key=KEY, anthropic_api_key=KEY,
        )  # fmt: skip
        models = ConfiguredModels(settings)
        for name, ours in (("openai", 3), ("xai", 0), ("anthropic", 0)):
            for _ in range(2):  # by the SDK, and by ourselves
                assert [event async for event in models.get(name).stream(question())]
                assert repr(fake.requests[-1].headers).count("of-ours") == ours
        await models.close()


def test_no_sdk_is_loaded_before_a_question() -> None:
    script = """
import sys
from parley.providers.registry import ConfiguredModels
from parley.settings import Settings
models = ConfiguredModels(Settings(openai_api_key="k", anthropic_api_key="k", xai_api_key="k"))
print([models.get(name) for name in ("openai", "anthropic", "xai")])
print(sorted({"openai", "anthropic", "httpx2", "aiohttp", "pydantic"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": "layers/common"}, capture_output=True, check=True
    )
    assert done.stdout.decode().splitlines()[-1] == "[]"


def test_a_catalogue_may_name_every_adapter_and_no_other() -> None:
    assert set(_ADAPTERS) == PROVIDERS
