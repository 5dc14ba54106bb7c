"""A key that was rotated, or put in late, is taken over by a running process; real sockets, as ever."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from local.fake_provider import FakeProvider, Script
from parley.domain.errors import ProviderFault, Unavailable
from parley.domain.events import Finish
from parley.providers.key_rotation import RotatingModels
from parley.settings import Settings, SettingsError
from tests.providers.chat_models import KEY, question, text_of


@pytest.fixture
async def fake() -> AsyncIterator[FakeProvider]:
    async with FakeProvider(api_key=KEY) as provider:
        yield provider


class Keys:
    """What Secrets Manager holds, and how often it was asked."""

    def __init__(self, fake: FakeProvider, key: str) -> None:
        self.fetched = 0
        self.held = self.settings = Settings(anthropic_base_url=fake.url, anthropic_api_key=key)

    async def renew(self, refused: Settings) -> Settings:
        self.fetched += 1
        await asyncio.sleep(0)
        return self.held


async def ask(models: RotatingModels) -> str:
    events = [event async for event in models.get("anthropic").stream(question())]
    assert isinstance(events[-1], Finish)
    return text_of(events)


@pytest.mark.parametrize("before", ["sk-rotated-away", ""])
async def test_37_a_rotated_key_is_fetched_once(fake: FakeProvider, before: str) -> None:
    keys = Keys(fake, before)
    models = RotatingModels(keys.settings, keys.renew)
    keys.held = Settings(anthropic_base_url=fake.url, anthropic_api_key=KEY)
    first = await ask(models)
    assert first
    assert await ask(models) == first
    assert keys.fetched == 1
    # One refusal, where there was a key to refuse, and two replies.
    assert fake.stats.calls == 2 + bool(before)
    assert models.version("anthropic") == f"anthropic/2 127.0.0.1:{fake.port}"
    assert (models.has("anthropic"), models.has("openai")) == (True, False)
    await models.close()
    await fake.until(lambda: fake.stats.open_connections == 0, timeout=30)


async def test_37_a_refusal_in_a_reply_s_place_renews_the_key_as_well() -> None:
    async with FakeProvider() as fake:
        keys = Keys(fake, "sk-rotated-away")
        models = RotatingModels(keys.settings, keys.renew)
        keys.held = Settings(anthropic_base_url=fake.url, anthropic_api_key=KEY)
        fake.script("m", Script(body='{"type": "error", "error": {"type": "authentication_error"}}'))
        with pytest.raises(ProviderFault):
            await ask(models)
        assert (keys.fetched, fake.stats.calls) == (1, 2)
        await models.close()


async def test_37_a_key_that_stays_wrong_is_refused(fake: FakeProvider) -> None:
    keys = Keys(fake, "sk-wrong")
    models = RotatingModels(keys.settings, keys.renew)
    with pytest.raises(ProviderFault) as caught:
        await ask(models)
    assert caught.value.fault == "provider_auth"
    assert "sk-" not in caught.value.message
    assert (keys.fetched, fake.stats.calls) == (1, 1)
    await models.close()


async def test_37_a_missing_key_is_named_when_the_model_is_asked(fake: FakeProvider) -> None:
    keys = Keys(fake, "")
    models = RotatingModels(keys.settings, keys.renew)
    with pytest.raises(ProviderFault) as caught:
        await ask(models)
    assert caught.value.fault == "model_not_configured"
    # Other processes may have the key: what they keep has the same name here.
    assert models.version("anthropic") == f"anthropic/2 127.0.0.1:{fake.port}"


async def test_many_refused_at_once_have_the_new_key(fake: FakeProvider) -> None:
    keys = Keys(fake, "sk-rotated-away")
    models = RotatingModels(keys.settings, keys.renew)
    keys.held = Settings(anthropic_base_url=fake.url, anthropic_api_key=KEY)
    replies = await asyncio.gather(*(ask(models) for _ in range(10)))
    assert len(set(replies)) == 1
    await models.close()
    await fake.until(lambda: fake.stats.open_connections == 0, timeout=30)


@pytest.mark.parametrize("error", [Unavailable("away", retry_after=2), SettingsError("odd")])
async def test_keys_that_cannot_be_fetched_leave_the_refusal(fake: FakeProvider, error: Exception) -> None:
    async def renew(_: Settings) -> Settings:
        raise error

    models = RotatingModels(Keys(fake, "sk-wrong").settings, renew)
    with pytest.raises(ProviderFault) as caught:
        await ask(models)
    assert caught.value.fault == "provider_auth"
    await models.close()


async def test_other_faults_are_left_to_others(fake: FakeProvider) -> None:
    keys = Keys(fake, KEY)
    models = RotatingModels(keys.settings, keys.renew)
    fake.script("m", Script(status=429))
    with pytest.raises(ProviderFault) as caught:
        await ask(models)
    assert caught.value.fault == "provider_rate_limited"
    assert keys.fetched == 0
    await models.close()
