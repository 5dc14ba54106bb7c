"""xAI's adapter, on real sockets."""

from typing import ClassVar

from local.fake_provider import FakeProvider
from parley.domain.ports import ChatModel
from parley.providers.xai import XaiModel
from tests.providers.chat_models import KEY, ChatModelSuite
from tests.providers.test_openai import TestOpenAIModel as _OpenAI


class TestXaiModel(ChatModelSuite):
    finish_words: ClassVar = _OpenAI.finish_words

    def make(self, fake: FakeProvider, key: str = KEY) -> ChatModel:
        return XaiModel(api_key=key, base_url=fake.openai_url)

    async def test_an_error_of_another_server_does_not_name_xai(
        self, fake: FakeProvider, model: ChatModel
    ) -> None:
        await fake.refuse()
        _, fault = await self.fail(model)
        assert fault.message.startswith("The model's server ")


del _OpenAI
