"""OpenAI's adapter, on real sockets."""

from typing import ClassVar

import pytest

from local.fake_provider import FakeProvider, Script
from parley.domain.events import Finish, FinishReason, Usage
from parley.domain.ports import ChatModel
from parley.providers.openai import OpenAIModel
from parley.providers.request_fields import RequestFields
from tests.providers.chat_models import KEY, ChatModelSuite, question, text_of


class TestOpenAIModel(ChatModelSuite):
    finish_words: ClassVar = {
        "stop": ("stop", FinishReason.STOP),
        "length": ("length", FinishReason.LENGTH),
        "content_filter": ("content_filter", FinishReason.CONTENT_FILTER),
        "tool_calls": ("tool_calls", FinishReason.TRUNCATED),
        "eos": ("eos", FinishReason.STOP),
        "some new word!": ("other", FinishReason.TRUNCATED),
    }

    def make(self, fake: FakeProvider, key: str = KEY) -> ChatModel:
        return OpenAIModel(api_key=key, base_url=fake.openai_url)

    async def test_a_request_has_all_that_was_asked(self, fake: FakeProvider, model: ChatModel) -> None:
        asked = question(
            "m",
            "a",
            "b",
            "c\n😀",
            system="Be brief.",
            parameters={"temperature": 0.5, "stream": False, "n": 1},
        )
        await self.ask(model, asked)
        (request,) = fake.requests
        assert request.path == "/v1/chat/completions"
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert request.headers["accept"] == "text/event-stream"
        assert request.body == {
            "model": "m",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"},
                {"role": "user", "content": "c\n😀"},
            ],
            "max_tokens": 500,
            "temperature": 0.5,
            "n": 1,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    @pytest.mark.parametrize(
        ("url", "name"),
        [
            ("https://api.openai.com/v1", "max_completion_tokens"),
            ("https://eu.api.openai.com/v1", "max_completion_tokens"),
            ("https://api.x.ai/v1", "max_completion_tokens"),
            ("https://not-openai.com/v1", "max_tokens"),
            ("http://localhost:11434/v1", "max_tokens"),
        ],
    )
    def test_the_limit_of_tokens_has_the_name_that_its_server_knows(self, url: str, name: str) -> None:
        assert RequestFields(url).fields_for(question().model)[name] == 500

    @pytest.mark.parametrize("usage", ["after", "with"])
    async def test_usage_may_come_with_the_end_or_after_it(
        self, fake: FakeProvider, model: ChatModel, usage: str
    ) -> None:
        fake.script("m", Script(tokens=("a", "b"), usage=usage))  # type: ignore[arg-type]
        assert (await self.ask(model))[-1] == Finish(FinishReason.STOP, "stop", Usage(7, 2))

    async def test_32_a_finish_reason_is_an_end_without_done(
        self, fake: FakeProvider, model: ChatModel
    ) -> None:
        fake.script("m", Script(fault="unmarked", fault_after=1000))
        assert isinstance((await self.ask(model))[-1], Finish)

    async def test_quota_is_no_rate_limit(self, fake: FakeProvider, model: ChatModel) -> None:
        fake.script("m", Script(status=429, error_type="insufficient_quota", retry_after="5"))
        _, fault = await self.fail(model)
        assert (fault.fault, fault.may_retry) == ("provider_quota", False)

    @pytest.mark.parametrize(
        ("word", "code"),
        [
            ("rate_limit_exceeded", "provider_rate_limited"),
            ("insufficient_quota", "provider_quota"),
            ("invalid_request_error", "provider_bad_request"),
            ("server_error", "provider_interrupted"),
            ("503", "provider_overloaded"),
            ("", "provider_interrupted"),
        ],
    )
    async def test_31_error_events(self, fake: FakeProvider, model: ChatModel, word: str, code: str) -> None:
        fake.script("m", Script(fault="error", fault_after=2, error_type=word))
        events, fault = await self.fail(model)
        assert (text_of(events), fault.fault) == ("You said:", code)

    async def test_a_server_that_wants_no_key_is_asked_without_one(self) -> None:
        async with FakeProvider() as fake:
            model = self.make(fake, "")
            assert isinstance((await self.ask(model))[-1], Finish)
            await model.close()
