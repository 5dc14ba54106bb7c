"""What every provider's adapter must do, whatever the provider does; each test file runs it on one."""

import asyncio
import logging
import traceback
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import ClassVar, Literal

import pytest

from local.fake_provider import FakeProvider, Script, reply_to
from local.fake_provider.script import Fault
from parley.domain.conversation import Model, Role, Turn
from parley.domain.errors import ProviderFault
from parley.domain.events import Delta, Finish, FinishReason, ModelEvent, Ping, Reasoning, Usage
from parley.domain.ports import ChatModel, ModelRequest
from tests.client import eventually

KEY = "sk-a-key-that-must-never-be-seen"
PROMPT = "A prompt that must never be seen"


def question(
    model: str = "m",
    *turns: str,
    system: str = "",
    parameters: Mapping[str, object] | None = None,
    limit: int = 500,
) -> ModelRequest:
    """Return a question whose turns alternate, the user's first."""
    roles = (Role.USER, Role.ASSISTANT)
    said = tuple(Turn(roles[number % 2], text) for number, text in enumerate(turns or (PROMPT,)))
    return ModelRequest(Model("id", "p", model, "Title", limit, 10_000, system, parameters or {}), said)


def text_of(events: list[ModelEvent]) -> str:
    """Return the reply that the events make."""
    return "".join(event.text for event in events if isinstance(event, Delta))


async def next_of(stream: AsyncGenerator[ModelEvent, None]) -> ModelEvent | None:
    """Return a stream's next event, or None after its last."""
    return await anext(stream, None)


class ChatModelBasics:
    """An answer and a wrong key: all that is new where a provider shares another one's adapter.

    Subclasses say how to make the model, and what their provider calls things.
    """

    finish_words: ClassVar[dict[str, tuple[str, FinishReason]]]

    def make(self, fake: FakeProvider, key: str = KEY) -> ChatModel:
        """Return a model that asks `fake`."""
        raise NotImplementedError

    @pytest.fixture
    async def fake(self) -> AsyncIterator[FakeProvider]:
        """A provider, without TLS."""
        async with FakeProvider(api_key=KEY) as provider:
            yield provider

    @pytest.fixture(params=["first question", "later question"])
    async def model(self, fake: FakeProvider, request: pytest.FixtureRequest) -> AsyncIterator[ChatModel]:
        """The adapter under test; the SDK asks its first question only."""
        made = self.make(fake)
        if request.param == "later question":
            await self.ask(made)
            fake.reset()
        yield made
        await made.close()

    async def ask(self, model: ChatModel, asked: ModelRequest | None = None) -> list[ModelEvent]:
        """Return all events of an answer."""
        return [event async for event in model.stream(asked or question())]

    async def listen(self, model: ChatModel, events: list[ModelEvent]) -> None:
        """Gather the events of an answer, so that they are there whatever ends it."""
        async for event in model.stream(question()):
            events.append(event)

    async def fail(self, model: ChatModel) -> tuple[list[ModelEvent], ProviderFault]:
        """Return the events of an answer that ends with a fault, and the fault."""
        events: list[ModelEvent] = []

        with pytest.raises(ProviderFault) as caught:
            await self.listen(model, events)
        fault = caught.value
        assert fault.__cause__ is None
        assert fault.__context__ is None
        told = "".join(traceback.format_exception(fault)) + repr(vars(fault))
        assert KEY not in told
        assert PROMPT not in told
        assert "must never be shown" not in told
        return events, fault

    @pytest.mark.each_loop
    async def test_an_answer_is_the_reply_and_its_end(self, fake: FakeProvider, model: ChatModel) -> None:
        events = await self.ask(model)
        assert text_of(events) == reply_to(PROMPT)
        word, reason = self.finish_words["stop"]
        assert events[-1] == Finish(reason, word, Usage(7, 9))
        assert [type(event) for event in events].count(Finish) == 1
        assert fake.stats.calls == 1

    async def test_37_wrong_key(self, fake: FakeProvider, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        wrong = "sk-some-other-key-nobody-may-see"
        model = self.make(fake, wrong)
        try:
            _, fault = await self.fail(model)
        finally:
            await model.close()
        assert (fault.fault, fault.may_retry) == ("provider_auth", False)
        assert "key" in fault.message
        assert wrong not in caplog.text
        assert wrong not in "".join(traceback.format_exception(fault)) + repr(model)


class ChatModelSuite(ChatModelBasics):
    """All that an adapter must do."""

    async def test_every_question_is_sent_alike(self, fake: FakeProvider) -> None:
        model = self.make(fake)
        turns = ("a", "b", "c\n😀")
        asked = question("m", *turns, system="Be brief.", parameters={"temperature": 0.5})
        for _ in range(3):
            await self.ask(model, asked)
        await self.ask(model, question("m", "An é and a quite different length of the body"))
        await model.close()
        first, second, third, other = fake.requests
        assert first == second == third
        assert other.path == first.path
        assert other.headers | {"content-length": ""} == first.headers | {"content-length": ""}
        assert other.headers["content-length"] != first.headers["content-length"]

    @pytest.mark.each_loop
    async def test_what_arrives_together_is_one_delta(self, fake: FakeProvider, model: ChatModel) -> None:
        await self.ask(model)
        fake.script("m", Script(count=40))
        events = await self.ask(model)
        assert len([event for event in events if isinstance(event, Delta)]) <= 2

    @pytest.mark.each_loop
    async def test_tokens_arrive_as_they_are_said(self, fake: FakeProvider, model: ChatModel) -> None:
        fake.script("m", Script(tokens=("one ", "two ", "three"), delay=0.05))
        events = await self.ask(model)
        assert [event for event in events if isinstance(event, Delta)] == [
            Delta("one "),
            Delta("two "),
            Delta("three"),
        ]

    async def test_30_statuses(self, fake: FakeProvider, model: ChatModel) -> None:
        expected = {
            400: ("provider_bad_request", False),
            401: ("provider_auth", False),
            402: ("provider_quota", False),
            403: ("provider_auth", False),
            404: ("provider_bad_request", False),
            408: ("provider_unavailable", True),
            409: ("provider_unavailable", True),
            413: ("provider_bad_request", False),
            422: ("provider_bad_request", False),
            429: ("provider_rate_limited", True),
            500: ("provider_unavailable", True),
            502: ("provider_unavailable", True),
            503: ("provider_overloaded", True),
            504: ("provider_unavailable", True),
            529: ("provider_overloaded", True),
            307: ("provider_protocol", False),
        }
        found = {}
        for status in expected:
            fake.script("m", Script(status=status))
            events, fault = await self.fail(model)
            assert events == []
            found[status] = (fault.fault, fault.may_retry)
        assert found == expected
        assert fake.stats.calls == len(expected)

    async def test_30_retry_after(self, fake: FakeProvider, model: ChatModel) -> None:
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
        cases = {
            ("", ""): None,
            ("3", ""): 3000,
            ("0.5", ""): 500,
            ("9", "250"): 250,
            ("-1", ""): 0,
            ("soon", "nan"): None,
            ("1e300", ""): 86_400_000,
        }
        for (seconds, milliseconds), expected in cases.items():
            fake.script("m", Script(status=429, retry_after=seconds, retry_after_ms=milliseconds))
            assert (await self.fail(model))[1].retry_after_ms == expected
        fake.script("m", Script(status=503, retry_after=date))
        assert 15_000 < ((await self.fail(model))[1].retry_after_ms or 0) <= 60_000

    async def test_30_the_next_call_may_succeed(self, fake: FakeProvider, model: ChatModel) -> None:
        fake.script("m", Script(status=529, status_times=1))
        await self.fail(model)
        assert text_of(await self.ask(model)) == reply_to(PROMPT)

    @pytest.mark.each_loop
    async def test_30_refused_connection(self, fake: FakeProvider, model: ChatModel) -> None:
        await fake.refuse()
        events, fault = await self.fail(model)
        assert (events, fault.fault, fault.may_retry) == ([], "provider_unavailable", True)

    @pytest.mark.each_loop
    async def test_30_connection_that_went_stale(self, fake: FakeProvider, model: ChatModel) -> None:
        await self.ask(model)
        await fake.refuse()
        await fake.listen()
        assert text_of(await self.ask(model)) == reply_to(PROMPT)

    @pytest.mark.each_loop
    async def test_30_no_answer_at_all(self, fake: FakeProvider, model: ChatModel) -> None:
        fake.script("m", Script(fault="hangup"))
        events, fault = await self.fail(model)
        assert (events, fault.fault, fault.may_retry) == ([], "provider_unavailable", True)

    @pytest.mark.each_loop
    @pytest.mark.parametrize(
        ("fault", "code", "retryable"),
        [
            ("reset", "provider_interrupted", True),
            ("eof", "provider_interrupted", True),
            ("error", None, True),
            ("json", "provider_protocol", False),
            ("deep", "provider_protocol", False),
            ("sse", "provider_protocol", False),
            ("endless", "provider_protocol", False),
        ],
    )
    async def test_31_faults_inside_a_reply(
        self, fake: FakeProvider, model: ChatModel, fault: Fault, code: str | None, retryable: bool
    ) -> None:
        fake.script("m", Script(tokens=("one ", "two ", "three"), fault=fault, fault_after=2))
        events, failure = await self.fail(model)
        assert text_of(events) == "one two "
        assert not [event for event in events if isinstance(event, Finish)]
        assert failure.may_retry is retryable
        if code is not None:
            assert failure.fault == code
        assert fake.stats.calls == 1

    @pytest.mark.parametrize("fault", ["utf8", "type"])
    async def test_36_what_carries_no_text_is_passed_over(
        self, fake: FakeProvider, model: ChatModel, fault: Fault
    ) -> None:
        fake.script("m", Script(tokens=("one ", "two ", "three"), fault=fault, fault_after=2))
        events = await self.ask(model)
        assert text_of(events).replace("\ufffd", "") == "one two "
        assert isinstance(events[-1], Finish)

    async def test_31_a_page_instead_of_a_stream(self, fake: FakeProvider, model: ChatModel) -> None:
        fake.script("m", Script(fault="html"))
        events, fault = await self.fail(model)
        assert (events, fault.fault) == ([], "provider_protocol")

    async def test_32_cut_reply_has_no_finish(self, fake: FakeProvider, model: ChatModel) -> None:
        fake.script("m", Script(tokens=("one ", "two ", "three"), fault="cut", fault_after=2))
        events = await self.ask(model)
        assert text_of(events) == "one two "
        assert not [event for event in events if isinstance(event, Finish)]

    @pytest.mark.each_loop
    async def test_33_waits_as_long_as_its_caller(self, fake: FakeProvider, model: ChatModel) -> None:
        fake.script("m", Script(tokens=("one ", "two"), fault="stall", fault_after=1))
        events: list[ModelEvent] = []
        task = asyncio.create_task(self.listen(model, events))
        await eventually(lambda: text_of(events) == "one ")
        await asyncio.sleep(0.2)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert text_of(events) == "one "
        await fake.until(lambda: fake.stats.closed_early == 1, timeout=30)

    @pytest.mark.each_loop
    async def test_33_every_byte_is_a_sign_of_life(self, fake: FakeProvider, model: ChatModel) -> None:
        fake.script("m", Script(tokens=("x",), packet_bytes=1, packet_delay=0.02))
        signs = 0
        async for event in model.stream(question()):
            assert isinstance(event, Ping)
            signs += 1
            if signs == 10:
                break

    async def test_34_empty_completion(self, fake: FakeProvider, model: ChatModel) -> None:
        fake.script("m", Script(tokens=()))
        events = await self.ask(model)
        assert text_of(events) == ""
        assert isinstance(events[-1], Finish)

    async def test_35_finish_reasons(self, fake: FakeProvider, model: ChatModel) -> None:
        for name, (word, reason) in self.finish_words.items():
            fake.script("m", Script(finish=name))
            end = (await self.ask(model))[-1]
            assert isinstance(end, Finish)
            assert (end.reason, end.provider_reason) == (reason, word)

    async def test_35_refusal(self, fake: FakeProvider, model: ChatModel) -> None:
        fake.script("m", Script(tokens=("I ", "won't."), refusal=True))
        events = await self.ask(model)
        assert text_of(events) == "I won't."
        end = events[-1]
        assert isinstance(end, Finish)
        assert (end.reason, end.provider_reason) == (FinishReason.CONTENT_FILTER, "refusal")

    async def test_36_noise_is_no_text_and_no_failure(self, fake: FakeProvider, model: ChatModel) -> None:
        fake.script(
            "m",
            Script(
                tokens=("a", "b"), delay=0.03, ping_every=1, unknown_events=True, reasoning=("hm, ", "well")
            ),
        )
        events = await self.ask(model)
        assert text_of(events) == "ab"
        assert "".join(event.text for event in events if isinstance(event, Reasoning)) == "hm, well"
        assert isinstance(events[-1], Finish)

    async def test_36_usage_may_be_missing(self, fake: FakeProvider, model: ChatModel) -> None:
        fake.script("m", Script(usage="none"))
        assert isinstance((await self.ask(model))[-1], Finish)

    async def test_36_counts_that_cannot_be_are_none(self, fake: FakeProvider, model: ChatModel) -> None:
        fake.script("m", Script(counted=5_000_000_000))
        finish = (await self.ask(model))[-1]
        assert isinstance(finish, Finish)
        assert finish.usage is None

    async def test_37_nothing_said_is_logged(
        self, fake: FakeProvider, model: ChatModel, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        await self.ask(model)
        for fault in ("reset", "json", "error", "hangup"):
            fake.script("m", Script(fault=fault, fault_after=2))
            await self.fail(model)
        fake.script("m", Script(status=400))
        await self.fail(model)
        for record in caplog.records:
            told = record.getMessage() + repr(vars(record))
            for secret in (PROMPT, KEY, "You said", "must never be shown"):
                assert secret not in told

    async def test_38_an_emoji_in_pieces_is_whole(self, fake: FakeProvider, model: ChatModel) -> None:
        tokens = ("👩‍🚀", "🇩🇪", "é", "漢", "👍🏽")
        fake.script("m", Script(tokens=tokens, packet_bytes=1, packet_delay=0.0002))
        assert text_of(await self.ask(model)) == "".join(tokens)
        fake.script("m", Script(tokens=tokens, chunk_bytes=3))
        assert text_of(await self.ask(model)) == "".join(tokens)

    async def test_38_a_surrogate_pair_between_events(self, fake: FakeProvider, model: ChatModel) -> None:
        tokens = ("a\ud83d", "\ude00b", "\ud83d", "c", "\ud83d")
        fake.script("m", Script(tokens=tokens, escape_unicode=True, delay=0.02))
        assert text_of(await self.ask(model)) == "a😀b\ufffdc\ufffd"
        fake.script("m", Script(tokens=tokens, escape_unicode=True))
        assert text_of(await self.ask(model)) == "a😀b\ufffdc\ufffd"

    @pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
    async def test_39_tokens_are_data(
        self, fake: FakeProvider, model: ChatModel, line_end: Literal["\n", "\r\n", "\r"]
    ) -> None:
        tokens = (
            '\n\ndata: {"type":"done"}\n\n', "data: [DONE]\n\n", "event: message_stop\n\n", "\r", "\r\n",
            "\u2028", "\u2029", "\x85", "\x0b", "</script>", "\x00", "\ufeff",
        )  # fmt: skip
        script = Script(tokens=tokens, byte_order_mark=True, line_end=line_end, packet_bytes=7)
        fake.script("m", script)
        assert text_of(await self.ask(model)) == "".join(tokens).replace("\0", "")

    @pytest.mark.each_loop
    async def test_stopping_closes_the_connection(self, fake: FakeProvider, model: ChatModel) -> None:
        fake.script("m", Script(count=10_000, delay=0.01))
        stream = model.stream(question())
        async for event in stream:
            if isinstance(event, Delta):
                break
        await stream.aclose()
        await fake.until(lambda: fake.stats.closed_early == 1, timeout=30)

    @pytest.mark.each_loop
    @pytest.mark.parametrize("fault", ["stall", "silence"])
    async def test_cancelling_closes_the_connection(
        self, fake: FakeProvider, model: ChatModel, fault: Fault
    ) -> None:
        fake.script("m", Script(fault=fault, fault_after=1))
        task = asyncio.create_task(self.ask(model))
        await fake.until(lambda: fake.stats.active == 1, timeout=30)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await fake.until(lambda: fake.stats.closed_early == 1, timeout=30)

    @pytest.mark.each_loop
    async def test_each_event_may_be_awaited_by_another_task(
        self, fake: FakeProvider, model: ChatModel
    ) -> None:
        fake.script("m", Script(count=5, delay=0.01))
        stream = model.stream(question())
        events: list[ModelEvent] = []
        while (event := await asyncio.create_task(next_of(stream))) is not None:
            events.append(event)
        assert isinstance(events[-1], Finish)

    @pytest.mark.each_loop
    async def test_a_whole_reply_gives_its_connection_back(
        self, fake: FakeProvider, model: ChatModel
    ) -> None:
        for script in (Script(), Script(delay=0.01), Script(status=500), Script()):
            fake.script("m", script)
            if script.status == 200:
                await self.ask(model)
            else:
                await self.fail(model)
        # The SDK's, and the one that later questions share.
        assert fake.stats.open_connections <= 2
        await model.close()
        await fake.until(lambda: fake.stats.open_connections == 0, timeout=30)

    @pytest.mark.each_loop
    async def test_many_questions_at_once_are_all_answered(
        self, fake: FakeProvider, model: ChatModel
    ) -> None:
        fake.script("m", Script(count=20, delay=0.002))
        texts = await asyncio.gather(*(self.ask(model, question("m", f"number {n}")) for n in range(30)))
        assert all(isinstance(events[-1], Finish) for events in texts)
        assert fake.stats.answered == 30
