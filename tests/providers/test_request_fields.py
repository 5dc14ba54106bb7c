"""Fields of a request that a server refuses, and what is asked then."""

import json
from typing import Any

import pytest

from local.fake_provider import FakeProvider, Script
from parley.domain.conversation import Model, ModelOptions, Role, Turn
from parley.domain.errors import ProviderFault
from parley.domain.events import Finish
from parley.domain.ports import ModelRequest
from parley.providers.openai import OpenAIModel
from parley.providers.request_fields import RequestFields
from tests.providers.chat_models import question


def model(parameters: dict[str, object] | None = None, **options: Any) -> Model:
    return Model("id", "p", "m", "Title", 500, 1000, "", parameters or {}, ModelOptions(**options))


TURNS = (Turn(Role.USER, "Why?"),)
OLD, NEW = "max_tokens", "max_completion_tokens"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (model(), {OLD: 500, "stream_options": {"include_usage": True}}),
        (model(output_limit=NEW), {NEW: 500, "stream_options": {"include_usage": True}}),
        (model(stream_usage=False), {OLD: 500}),
        (model({NEW: 9}, stream_usage=False), {}),
        (model({OLD: 9}, stream_usage=False), {}),
    ],
)
def test_the_model_s_row_says_what_its_server_takes(asked: Model, expected: dict[str, object]) -> None:
    assert RequestFields("http://127.0.0.1/v1").fields_for(asked) == expected


@pytest.mark.parametrize(
    ("unknown", "left"),
    [
        (("stream_options",), {OLD}),
        ((OLD,), {NEW, "stream_options"}),
        ((OLD, "stream_options"), {NEW}),
    ],
)
async def test_a_refused_field_is_left_out_and_that_is_remembered(
    unknown: tuple[str, ...], left: set[str]
) -> None:
    async with FakeProvider() as fake:
        asked = OpenAIModel(api_key="", base_url=fake.openai_url)
        for name in ("m", "other"):
            fake.script(name, Script(unknown_fields=unknown))
            for _ in range(3):
                assert isinstance([event async for event in asked.stream(question(name))][-1], Finish)
        assert fake.stats.calls == 2 * (len(unknown) + 3)
        assert {OLD, NEW, "stream_options"} & set(fake.requests[-1].body) == left
        await asked.close()


async def test_a_refusal_is_remembered_for_a_row_that_said_otherwise() -> None:
    async with FakeProvider() as fake:
        asked = OpenAIModel(api_key="", base_url=fake.openai_url)
        fake.script("m", Script(unknown_fields=(NEW,)))
        for _ in range(3):
            events = [event async for event in asked.stream(ModelRequest(model(output_limit=NEW), TURNS))]
            assert isinstance(events[-1], Finish)
        assert fake.stats.calls == 4
        await asked.close()


async def test_what_the_parameters_have_is_not_asked_again() -> None:
    async with FakeProvider() as fake:
        asked = OpenAIModel(api_key="", base_url=fake.openai_url)
        fake.script("m", Script(unknown_fields=(OLD,)))
        for row in (model({OLD: 9}), model({OLD: 9}, output_limit="nonsense")):
            with pytest.raises(ProviderFault):
                assert [event async for event in asked.stream(ModelRequest(row, TURNS))]
        assert fake.stats.calls == 2
        await asked.close()


@pytest.mark.parametrize(
    "body",
    [
        "unknown field `stream_options`, expected `model`",
        json.dumps({"error": {"message": "Unknown parameter: 'stream_options'.", "near": "\ud83d"}}),
        json.dumps({"error": {"message": "Unknown parameter: 'stream_options'.", "input": "x" * 100_000}}),
    ],
)
async def test_the_first_refusal_is_read_as_the_later_ones_are(body: str) -> None:
    async with FakeProvider() as fake:
        asked = OpenAIModel(api_key="", base_url=fake.openai_url)
        for name in ("first", "later"):
            fake.script(name, Script(status=400, status_times=1, error_body=body))
            assert isinstance([event async for event in asked.stream(question(name))][-1], Finish)
        await asked.close()


async def test_a_refusal_of_everything_ends() -> None:
    async with FakeProvider() as fake:
        asked = OpenAIModel(api_key="", base_url=fake.openai_url)
        fake.script("m", Script(unknown_fields=(OLD, NEW)))
        for calls in (2, 4):
            with pytest.raises(ProviderFault) as caught:
                assert [event async for event in asked.stream(question("m"))]
            assert caught.value.fault == "provider_bad_request"
            assert fake.stats.calls == calls
        await asked.close()


REFUSALS = [
    ("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'"
     " instead.", NEW),
    ("Unsupported parameter(s): `stream_options`", None),
    ("property 'stream_options' is unsupported, did you mean 'stream'?", None),
    ({"detail": [{"type": "extra_forbidden", "loc": ["body", "max_tokens"], "msg": "Extra inputs are not"
     " permitted"}]},
     NEW),
    ({"object": "error", "message": {"detail": [{"loc": ["body", "stream_options", "include_usage"],
      "msg": "extra fields not permitted"}]}}, None),
    ({"object": "error", "message": json.dumps({"detail": [{"type": "extra_forbidden", "loc": ["body",
     "max_tokens"]}]})},
     NEW),
    ("[{'type': 'extra_forbidden', 'loc': ('body', 'stream_options'), 'msg': 'Extra inputs are not"
     " permitted'}]", None),
    ([{"error": {"message": 'Unknown name "stream_options": Cannot find field.'}}], None),
    ({"error": "Argument not supported on this model: maxTokens"}, NEW),
    ("This model does not support stream_options", None),
    ("Invalid parameter: stream_options", None),
    ("unknown field `stream_options`, expected one of \ud83d", None),
]  # fmt: skip


@pytest.mark.parametrize(("said", "limit"), REFUSALS)
def test_servers_refuse_fields_in_many_words(said: object, limit: str | None) -> None:
    found = RequestFields("http://127.0.0.1/v1")._default.without_what_was_refused(said)
    assert found is not None
    assert (found.limit, found.stream_options) == (limit or OLD, limit is not None)


@pytest.mark.parametrize(
    "said",
    [
        "max_tokens is too large: 32768. This model supports at most 16384 completion tokens.",
        "max_tokens: 30000 > 16000, which is the maximum allowed number of output tokens",
        "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]",
        "Stream options can only be defined when `stream=True`.",
        "max_tokens: 100 is not allowed, must be at most 50",
        'unexpected end of JSON; request was {"stream_options":{"include_usage":true}',
        {"detail": [{"type": "greater_than_equal", "loc": ["body", "max_tokens"], "msg": "too small"}]},
        {"error": {"message": "The model `m` does not exist or you have no access."}},
        "Unsupported parameter: 'temperature'",
        None,
    ],
)
def test_a_refused_value_is_no_refused_name(said: object) -> None:
    assert RequestFields("http://127.0.0.1/v1")._default.without_what_was_refused(said) is None
