"""xAI's adapter, on real sockets: OpenAI's, but for its name, its key and what its SDK would add.

What both share is tested in `test_openai.py`.
"""

from typing import ClassVar

import pytest

from local.fake_provider import FakeProvider
from parley.domain.events import FinishReason
from parley.domain.ports import ChatModel
from parley.providers.openai import OpenAIModel
from parley.providers.server import title_of_server
from parley.providers.xai import XaiModel
from tests.providers.chat_models import KEY, ChatModelBasics


class TestXaiModel(ChatModelBasics):
    finish_words: ClassVar = {"stop": ("stop", FinishReason.STOP)}

    def make(self, fake: FakeProvider, key: str = KEY) -> ChatModel:
        return XaiModel(api_key=key, base_url=fake.openai_url)

    def test_xai_differs_from_openai_in_its_client_and_its_version_only(self) -> None:
        assert XaiModel.__bases__ == (OpenAIModel,)
        own = {name for name in vars(XaiModel) if not name.startswith("__")}
        assert own == {"version", "_make_client"}

    async def test_xai_is_sent_its_key_and_nothing_that_is_openai_s(
        self, fake: FakeProvider, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
            monkeypatch.setenv(name, "of-openai")
        monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Ours: of-openai")
        model = self.make(fake)
        for _ in range(2):  # by the SDK, and by ourselves
            await self.ask(model)
            request = fake.requests[-1]
            assert request.path == "/v1/chat/completions"
            assert request.headers["authorization"] == f"Bearer {KEY}"
            assert request.headers["accept"] == "text/event-stream"
            assert "of-openai" not in repr(request.headers)
        await model.close()

    def test_an_error_of_xai_s_server_names_xai(self) -> None:
        assert title_of_server("https://api.x.ai/v1") == "xAI"

    async def test_an_error_of_another_server_does_not_name_xai(
        self, fake: FakeProvider, model: ChatModel
    ) -> None:
        await fake.refuse()
        _, fault = await self.fail(model)
        assert fault.message.startswith("The model's server ")
