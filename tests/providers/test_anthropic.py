"""Anthropic's adapter, on real sockets."""

from typing import ClassVar

import pytest

from local.fake_provider import FakeProvider, Script
from parley.domain.events import Finish, FinishReason
from parley.domain.ports import ChatModel
from parley.providers.anthropic import AnthropicModel
from tests.providers.chat_models import KEY, ChatModelSuite, question, text_of


class TestAnthropicModel(ChatModelSuite):
    finish_words: ClassVar = {
        "stop": ("end_turn", FinishReason.STOP),
        "stop_sequence": ("stop_sequence", FinishReason.STOP),
        "length": ("max_tokens", FinishReason.LENGTH),
        "model_context_window_exceeded": ("model_context_window_exceeded", FinishReason.LENGTH),
        "content_filter": ("refusal", FinishReason.CONTENT_FILTER),
        "tool_calls": ("tool_use", FinishReason.TRUNCATED),
        "pause_turn": ("pause_turn", FinishReason.TRUNCATED),
        "some new word!": ("other", FinishReason.TRUNCATED),
    }

    def make(self, fake: FakeProvider, key: str = KEY) -> ChatModel:
        return AnthropicModel(api_key=key, base_url=fake.anthropic_url)

    async def test_a_request_has_all_that_was_asked(self, fake: FakeProvider, model: ChatModel) -> None:
        asked = question("m", "a", "b", "c\n😀", system="Be brief.", parameters={"top_k": 3, "stream": False})
        await self.ask(model, asked)
        (request,) = fake.requests
        assert request.path == "/v1/messages"
        assert KEY in (request.headers.get("x-api-key"), request.headers.get("authorization", "")[7:])
        assert request.headers["anthropic-version"]
        assert request.body == {
            "model": "m",
            "max_tokens": 500,
            "system": "Be brief.",
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"},
                {"role": "user", "content": "c\n😀"},
            ],
            "top_k": 3,
            "stream": True,
        }

    async def test_32_without_message_stop_a_reply_is_cut(self, fake: FakeProvider, model: ChatModel) -> None:
        fake.script("m", Script(fault="unmarked", fault_after=1000))
        assert not [event for event in await self.ask(model) if isinstance(event, Finish)]

    @pytest.mark.parametrize(
        ("word", "code", "retryable"),
        [
            ("overloaded_error", "provider_overloaded", True),
            ("rate_limit_error", "provider_rate_limited", True),
            ("billing_error", "provider_quota", False),
            ("authentication_error", "provider_auth", False),
            ("invalid_request_error", "provider_bad_request", False),
            ("api_error", "provider_interrupted", True),
            ("a_new_error", "provider_interrupted", True),
        ],
    )
    async def test_31_error_events(
        self, fake: FakeProvider, model: ChatModel, word: str, code: str, retryable: bool
    ) -> None:
        fake.script("m", Script(fault="error", fault_after=2, error_type=word))
        events, fault = await self.fail(model)
        assert (text_of(events), fault.fault, fault.may_retry) == ("You said:", code, retryable)
