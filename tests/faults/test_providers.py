"""What providers do wrong, as a user sees it: rows 30 to 39 of the list of faults."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from local.fake_provider import reply_to
from tests.client import Client, Transcript, eventually, text_of
from tests.faults.proxy import FaultProxy
from tests.processes import IN_LAMBDA, Fake
from tests.world import World

WIRES = ("openai", "anthropic")
wires = pytest.mark.parametrize("wire", WIRES)
_ATTEMPTS = 3
_TOKENS = ["One ", "two ", "three ", "four ", "five."]


@pytest.fixture
def client(shared: World) -> Client:
    """A client of a server that others use too."""
    return shared.client(shared.common_server())


async def _ends(
    client: Client, model: str, prompt: str, *, status: str, text: str
) -> tuple[Transcript, dict[str, Any]]:
    """Ask; hold the end against what is stored, and what is stored against the text."""
    started, reading = await client.ask(prompt, model)
    assert reading.end is not None
    assert reading.events[-1] == reading.end
    assert reading.end["saved"] is True
    assert reading.text == text
    assert "reset" not in reading.types()
    reply = await client.reply(started)
    assert reply["status"] == status
    assert text_of(reply) == text
    page = await client.history(started["chatId"])
    assert page["activeSessionId"] is None
    assert len(page["messages"]) == 2
    # Whoever comes later is told the same.
    late = await client.read(started["sessionId"])
    assert late.end == reading.end
    assert late.text == text
    if reading.end["type"] == "error":
        assert reply["errorCode"] == reading.end["code"]
        assert reply["finishReason"] is None
        assert "never be shown" not in json.dumps(reading.events)
    else:
        assert reply["finishReason"] == reading.end["finishReason"]
    return reading, reply


async def _fails(client: Client, model: str, prompt: str, text: str = "") -> dict[str, Any]:
    reading, _ = await _ends(client, model, prompt, status="failed", text=text)
    assert reading.end is not None
    assert reading.end["type"] == "error"
    return reading.end


# -- before the first token -------------------------------------------------------------------------


@wires
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (429, "provider_rate_limited"),
        (500, "provider_unavailable"),
        (503, "provider_overloaded"),
        (529, "provider_overloaded"),
    ],
)
async def test_30_refused_again_and_again(
    shared: World, client: Client, wire: str, status: int, code: str
) -> None:
    model = shared.model(f"busy-{wire}-{status}", wire, status=status)
    reading, _ = await _ends(client, model, "Are you busy?", status="failed", text="")
    assert reading.types() == ["start", "typing", "status", "error"]
    assert reading.events[2]["state"] == "retrying"
    assert reading.end is not None
    assert reading.end["code"] == code
    assert reading.end["retryable"] is True
    assert 0 < reading.end["retryAfterMs"] < 10_000
    assert shared.fake.calls(model) == _ATTEMPTS
    await _fails(client, model, "Are you busy?")
    assert shared.fake.calls(model) == 2 * _ATTEMPTS


@wires
async def test_30_a_try_that_succeeds(shared: World, client: Client, wire: str) -> None:
    model = shared.model(f"busy-twice-{wire}", wire, status=529, status_times=2, retry_after_ms="150")
    begin = time.monotonic()
    text = reply_to("Are you busy now?")
    reading, _ = await _ends(client, model, "Are you busy now?", status="complete", text=text)
    assert reading.types()[:3] == ["start", "typing", "status"]
    assert time.monotonic() - begin > 0.3
    assert shared.fake.calls(model) == 3
    _, again = await client.ask("Are you busy now?", model)
    assert again.source == "cache"
    assert "status" not in again.types()


@wires
async def test_30_a_provider_that_asks_for_more_time_than_there_is(
    shared: World, client: Client, wire: str
) -> None:
    model = shared.model(f"busy-long-{wire}", wire, status=429, retry_after="120")
    end = await _fails(client, model, "How long are you busy?")
    assert end["retryAfterMs"] == 120_000
    assert shared.fake.calls(model) == 1
    # Near the deadline of an invocation, less is too much: no attempt is announced, none is waited for.
    model = shared.model(f"busy-short-{wire}", wire, status=429, retry_after="50")
    client = shared.client(shared.common_server(0, **IN_LAMBDA))
    client.http.headers["x-amzn-lambda-context"] = json.dumps({"deadline": (time.time() + 55) * 1000})
    reading, _ = await _ends(client, model, "How long are you busy, then?", status="failed", text="")
    assert reading.end is not None
    assert reading.end["retryAfterMs"] == 50_000
    assert reading.types() == ["start", "typing", "error"]
    assert shared.fake.calls(model) == 1


@wires
async def test_30_a_connection_closed_instead_of_an_answer(shared: World, client: Client, wire: str) -> None:
    model = shared.model(f"hangup-{wire}", wire, fault="hangup")
    end = await _fails(client, model, "Who hangs up?")
    assert end["code"] == "provider_unavailable"
    assert end["retryAfterMs"] > 0
    assert shared.fake.calls(model) == _ATTEMPTS


async def test_30_a_refused_connection(shared: World) -> None:
    async with FaultProxy(shared.fake.url) as proxy:
        server = shared.server(OPENAI_BASE_URL=f"{proxy.url}/v1", ANTHROPIC_BASE_URL=proxy.url)
        client = shared.client(server)
        for wire in WIRES:
            model = shared.model(f"refused-{wire}", wire)
            await proxy.refuse()
            proxy.reset()
            reading, _ = await _ends(client, model, "Is anybody there?", status="failed", text="")
            assert reading.types() == ["start", "typing", "status", "error"]
            assert reading.end is not None
            assert reading.end["code"] == "provider_unavailable"
            assert reading.end["retryAfterMs"] > 0
            assert shared.fake.calls(model) == 0
            await proxy.heal()
            _, reading = await client.ask("Is anybody there?", model)
            assert reading.text == reply_to("Is anybody there?")
            # A connection that broke while idle is replaced unseen, or at the price of one retry.
            proxy.reset()
            _, reading = await client.ask("Still there?", model)
            assert reading.text == reply_to("Still there?")


@wires
@pytest.mark.parametrize("status", [400, 403, 404, 413, 422])
async def test_30_what_will_not_get_better_is_not_tried_again(
    shared: World, client: Client, wire: str, status: int
) -> None:
    model = shared.model(f"never-{wire}-{status}", wire, status=status)
    reading, _ = await _ends(client, model, "Never?", status="failed", text="")
    assert reading.types() == ["start", "typing", "error"]
    assert reading.end is not None
    assert reading.end["retryable"] is False
    assert "retryAfterMs" not in reading.end
    assert shared.fake.calls(model) == 1


# -- in the middle ----------------------------------------------------------------------------------


@wires
@pytest.mark.parametrize("fault", ["error", "reset", "eof", "json", "deep", "sse", "endless"])
async def test_31_a_reply_that_breaks_in_the_middle(
    shared: World, client: Client, wire: str, fault: str
) -> None:
    model = shared.model(
        f"breaks-{wire}-{fault}", wire, tokens=_TOKENS, fault=fault, fault_after=3, delay=0.005
    )
    text = "".join(_TOKENS[:3])
    reading, _ = await _ends(client, model, "Can you count?", status="failed", text=text)
    assert reading.end is not None
    assert reading.end["type"] == "error"
    interrupted = ("provider_interrupted", "provider_overloaded", "provider_unavailable")
    assert reading.end["code"] in (
        interrupted if fault in ("error", "reset", "eof") else ("provider_protocol",)
    )
    assert "status" not in reading.types()
    assert shared.fake.calls(model) == 1
    await _fails(client, model, "Can you count?", text)
    assert shared.fake.calls(model) == 2
    shared.fake.until(lambda stats: stats["active"] == 0)


@wires
@pytest.mark.parametrize("fault", ["utf8", "type"])
async def test_36_what_carries_no_text_breaks_no_reply(
    shared: World, client: Client, wire: str, fault: str
) -> None:
    model = shared.model(f"odd-{wire}-{fault}", wire, tokens=_TOKENS, fault=fault, fault_after=3, delay=0.005)
    started, reading = await client.ask("Can you count?", model)
    assert reading.end is not None
    assert reading.end["finishReason"] == "stop"
    assert reading.text.replace("\ufffd", "") == "".join(_TOKENS[:3])
    assert text_of(await client.reply(started)) == reading.text
    assert shared.fake.calls(model) == 1


@wires
async def test_31_every_reader_is_told(shared: World, client: Client, wire: str) -> None:
    model = shared.model(
        f"breaks-{wire}", wire, tokens=_TOKENS * 4, fault="reset", fault_after=19, delay=0.03
    )
    clients = [client, client, *[shared.client(shared.common_server(1)) for _ in range(2)]]
    started = await client.start("Can you all hear it?", model)
    readings = await asyncio.gather(*(one.read(started["sessionId"]) for one in clients))
    reply = await client.reply(started)
    assert reply["status"] == "failed"
    for reading in readings:
        assert reading.text == text_of(reply) == "".join((_TOKENS * 4)[:19])
        assert reading.end is not None
        assert reading.end["code"] == reply["errorCode"] == "provider_interrupted"
    assert shared.fake.calls(model) == 1
    # The chat goes on, and what failed is no part of its context.
    _, after = await client.ask("And now?", shared.model(f"heals-{wire}", wire), chatId=started["chatId"])
    assert after.text == reply_to("And now?")


# On OpenAI's wire a finish reason is an end by itself: not every compatible server sends `[DONE]`.
@pytest.mark.parametrize(
    ("wire", "fault"), [("openai", "cut"), ("anthropic", "cut"), ("anthropic", "unmarked")]
)
async def test_32_a_body_that_ends_without_its_marker(
    shared: World, client: Client, wire: str, fault: str
) -> None:
    model = shared.model(f"cut-{wire}-{fault}", wire, tokens=_TOKENS, fault=fault, fault_after=3)
    text = "".join(_TOKENS[:3])
    for call in (1, 2):
        reading, reply = await _ends(client, model, "Is that all?", status="truncated", text=text)
        assert reading.end is not None
        assert reading.end["finishReason"] == reply["finishReason"] == "truncated"
        assert shared.fake.calls(model) == call


@wires
async def test_32_a_body_that_ends_before_the_first_token(shared: World, client: Client, wire: str) -> None:
    model = shared.model(f"cut-early-{wire}", wire, fault="cut")
    end = await _fails(client, model, "Nothing at all?")
    assert end["code"] == "provider_interrupted"
    assert shared.fake.calls(model) == _ATTEMPTS


# -- silence ----------------------------------------------------------------------------------------


@pytest.fixture
async def hasty(shared: World) -> Client:
    """A client of a server that waits a second at most, and beats ten times in it."""
    server = shared.server(
        PROVIDER_GAP_SECONDS="1",
        PROVIDER_FIRST_TOKEN_SECONDS="2",
        PROVIDER_TOTAL_SECONDS="3",
        HEARTBEAT_SECONDS="0.1",
    )
    made = shared.client(server)
    for wire in WIRES:
        # The first call loads the SDK, which may take longer than this server waits.
        model = shared.model(f"load-{wire}", wire)
        async with asyncio.timeout(60):
            while (await made.ask("Load.", model))[1].end["type"] != "done":  # type: ignore[index]
                pass
    return made


def _thought(reading: Transcript) -> int:
    """Return how often a reader was told that the model thinks, in place of a comment."""
    kinds = reading.types()
    assert set(kinds[2:-1]) == {"status"}
    states = [event["state"] for event in reading.events if event["type"] == "status"]
    assert set(states) == {"thinking"}
    return len(states)


async def test_33_silence_and_drip(shared: World, hasty: Client) -> None:
    """All at once, since they take their time: every one on its own stream."""

    async def stalls(wire: str) -> None:
        model = shared.model(f"stalls-{wire}", wire, tokens=_TOKENS, fault="stall", fault_after=3)
        begin = time.monotonic()
        reading, _ = await _ends(hasty, model, "Go on?", status="failed", text="".join(_TOKENS[:3]))
        assert time.monotonic() - begin >= 1.0
        assert reading.end is not None
        assert reading.end["code"] == "provider_timeout"
        assert reading.end["retryable"] is True
        assert reading.comments >= 2
        assert shared.fake.calls(model) == 1

    async def silent(wire: str) -> None:
        model = shared.model(f"silent-{wire}", wire, fault="silence")
        begin = time.monotonic()
        reading, _ = await _ends(hasty, model, "Hello?", status="failed", text="")
        assert time.monotonic() - begin >= 1.0
        assert reading.end is not None
        assert reading.end["code"] == "provider_timeout"
        assert reading.end["retryable"] is True
        assert _thought(reading) >= 2
        # It has the question: to ask again would have it work twice.
        assert shared.fake.calls(model) == 1

    async def drips(wire: str) -> None:
        model = shared.model(f"drips-{wire}", wire, packet_bytes=1, packet_delay=0.15)
        begin = time.monotonic()
        reading, _ = await _ends(hasty, model, "Faster?", status="failed", text="")
        assert time.monotonic() - begin >= 3.0
        assert reading.end is not None
        assert reading.end["code"] == "provider_timeout"
        assert _thought(reading) >= 2
        assert shared.fake.calls(model) == 1

    async def dawdles(wire: str) -> None:
        model = shared.model(f"dawdles-{wire}", wire, count=1000, delay=0.4)
        begin = time.monotonic()
        started, reading = await hasty.ask("Are you done?", model)
        assert time.monotonic() - begin >= 3.0
        assert reading.end is not None
        assert reading.end["finishReason"] == "truncated"
        reply = await hasty.reply(started)
        assert reply["status"] == "truncated"
        assert text_of(reply) == reading.text != ""
        # Between two tokens there is room for a heartbeat.
        assert reading.comments >= 2
        assert shared.fake.calls(model) == 1

    await asyncio.gather(*(work(wire) for work in (stalls, silent, drips, dawdles) for wire in WIRES))
    await eventually(lambda: shared.fake.stats()["active"] == 0)


# -- strange ends -----------------------------------------------------------------------------------


@wires
@pytest.mark.parametrize("thinks", [False, True])
async def test_34_an_empty_completion(shared: World, client: Client, wire: str, thinks: bool) -> None:
    reasoning = ["Let me ", "think."] if thinks else []
    model = shared.model(f"empty-{wire}-{thinks}", wire, tokens=[], reasoning=reasoning)
    end = await _fails(client, model, "Nothing to say?")
    assert end["code"] == "empty_reply"
    assert end["retryable"] is True
    assert shared.fake.calls(model) == 1
    started, _ = await client.ask("Nothing to say?", model)
    assert shared.fake.calls(model) == 2
    assert (await client.reply(started))["parts"] == []
    shared.fake.script(model)
    _, reading = await client.ask("Say something.", model, chatId=started["chatId"])
    assert reading.text == reply_to("Say something.")
    asked = [request["body"]["messages"] for request in shared.fake.requests()][-1]
    assert [turn["content"] for turn in asked] == ["Say something."]


@wires
@pytest.mark.parametrize(
    ("script", "reason", "status"),
    [
        ({"finish": "length"}, "length", "truncated"),
        ({"finish": "content_filter"}, "content_filter", "filtered"),
        ({"finish": "content_filter", "tokens": []}, "content_filter", "filtered"),
        ({"refusal": True, "tokens": ["I cannot ", "help with that."]}, "content_filter", "filtered"),
        ({"finish": "tool_calls"}, "truncated", "truncated"),
        ({"finish": "a word of tomorrow"}, "truncated", "truncated"),
    ],
    ids=["length", "filter", "filter-at-once", "refusal", "tool", "unknown"],
)
async def test_35_other_ends_are_labelled(
    shared: World,
    client: Client,
    wire: str,
    script: dict[str, Any],
    reason: str,
    status: str,
    request: pytest.FixtureRequest,
) -> None:
    model = shared.model(f"ends-{request.node.callspec.id}", wire, **script)
    text = "".join(script.get("tokens", [reply_to("How does it end?")]))
    for call in (1, 2):
        reading, reply = await _ends(client, model, "How does it end?", status=status, text=text)
        assert reading.end is not None
        assert reading.end["type"] == "done"
        assert reading.end["finishReason"] == reason
        assert reading.end["usage"] == reply["usage"] is not None
        assert shared.fake.calls(model) == call


@wires
@pytest.mark.parametrize(
    "script",
    [
        {"ping_every": 1, "unknown_events": True, "reasoning": ["Let me ", "think."]},
        {"usage": "with"},
        {"usage": "none"},
        {"line_end": "\r\n"},
        {"line_end": "\r", "byte_order_mark": True},
        {"chunk_bytes": 7, "packet_bytes": 11, "packet_delay": 0.0},
        {"tokens_per_write": 0},
    ],
    ids=["noise", "usage-with-the-end", "no-usage", "crlf", "cr", "pieces", "burst"],
)
async def test_36_noise_is_no_failure(
    shared: World, client: Client, wire: str, script: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    model = shared.model(f"noise-{request.node.callspec.id}", wire, **script)
    text = reply_to("What is that noise?")
    reading, reply = await _ends(client, model, "What is that noise?", status="complete", text=text)
    assert reading.end is not None
    assert reading.end["finishReason"] == "stop"
    assert reading.end["usage"] == reply["usage"]
    if script.get("usage") == "none":
        assert reply["usage"] is None
    else:
        assert (
            reply["usage"]["totalTokens"]
            == reply["usage"]["inputTokens"] + reply["usage"]["outputTokens"]
            > 0
        )
    _, again = await client.ask("What is that noise?", model)
    assert again.source == "cache"
    assert again.text == text
    assert again.end is not None
    assert again.end["usage"] == reading.end["usage"]


# -- keys -------------------------------------------------------------------------------------------


class _StrictFake(Fake):
    """Takes one key only, and quotes any other."""

    arguments = ("--api-key", "the-right-key")


async def test_37_a_wrong_key_fails_its_models_only_and_is_nowhere(shared: World, tmp_path: Path) -> None:
    wrong = "sk-wrong-6a1f09c7d2"
    strict = _StrictFake(tmp_path)
    try:
        server = shared.fresh_server(
            # The SDKs read whether to log while they are imported.
            OPENAI_BASE_URL=f"{strict.url}/v1", OPENAI_API_KEY=wrong,
            ANTHROPIC_BASE_URL=strict.url, ANTHROPIC_API_KEY="the-right-key",
            XAI_API_KEY="", LOG_LEVEL="DEBUG", OPENAI_LOG="debug", ANTHROPIC_LOG="debug",
        )  # fmt: skip
        client = shared.client(server)
        models = {wire: shared.model(f"keys-{wire}", wire) for wire in (*WIRES, "xai")}
        strict.script(models["openai"], error_message=f"Incorrect API key provided: {wrong}")
        heard = bytearray()

        async def listen(response: Any) -> None:
            heard.extend(repr(response.headers).encode() + await response.aread())

        prompt, sessions = "A prompt that no log shows.", []
        client.http.event_hooks["response"].append(listen)
        for model, code in ((models["openai"], "provider_auth"), (models["xai"], "model_not_configured")):
            started = await client.start(prompt, model)
            sessions.append(started["sessionId"])
            response = await client.http.get("/chat/stream", params={"sessionId": started["sessionId"]})
            [end] = [json.loads(line[6:]) for line in response.text.split("\n") if '"error"' in line]
            assert (end["code"], end["retryable"], end["saved"]) == (code, False, True)
            assert ("xAI" in end["message"]) == (model == models["xai"])
            assert "OpenAI" not in end["message"]  # it is a server of somebody's own
            assert (await client.reply(started))["errorCode"] == code
        client.http.event_hooks["response"].clear()
        assert strict.calls(models["openai"]) == 1
        for model in (models["anthropic"], "demo"):
            started, reading = await client.ask(prompt, model)
            sessions.append(started["sessionId"])
            assert reading.end is not None
            assert reading.end["type"] == "done"
        assert b"provider_auth" in heard
        assert wrong.encode() not in heard
        rows = [
            row
            for [table] in shared.sql("select tablename from pg_tables where schemaname = 'public'")
            for row in shared.sql(f"select t::text from {table} t")
        ]
        assert rows
        server.terminate()
        said = server.output()
        assert "provider_fault" in said
        for key in (wrong, "the-right-key"):
            assert key not in said
            assert key not in json.dumps(rows)
        for secret in (prompt, "You said", *sessions):
            assert secret not in said
    finally:
        strict.close()


# -- bytes ------------------------------------------------------------------------------------------


@wires
@pytest.mark.parametrize("escaped", [False, True])
async def test_38_characters_in_pieces(shared: World, client: Client, wire: str, escaped: bool) -> None:
    tokens = ["👩‍🚀 ", "🇩🇪", "e\u0301", "👍🏽", "\U0010ffff"]
    model = shared.model(
        f"pieces-{wire}-{escaped}", wire,
        tokens=tokens, packet_bytes=3, packet_delay=0.0002, escape_unicode=escaped,
    )  # fmt: skip
    reading, _ = await _ends(client, model, "Show me.", status="complete", text="".join(tokens))
    pieces = [event["content"] for event in reading.events if event["type"] == "token"]
    assert "\ufffd" not in "".join(pieces)
    assert all(piece in "".join(tokens) for piece in pieces)


_FORGED = [
    '\n\ndata: {"type":"done"}\n\n', '\r\rdata: {"type":"error","code":"x"}\r\r', "\r", "\r\n", "\r\n\r\n",
    "\u2028", "\u2029", "\x85", "\x0b\x0c\x1c\x1d\x1e", "</script>", "id: 9-9\n\n", "event: done\n\n",
    ": comment\n\n", "retry: 0\n\n", '"}\n\ndata: {"type":"reset"}\n\n', "\\n\\n", "data: [DONE]\n\n",
    "\x1b[2J", "<img src=x onerror=alert(1)>", "🦜", " ",
]  # fmt: skip


@wires
async def test_39_tokens_are_data_everywhere(shared: World, client: Client, wire: str) -> None:
    model = shared.model(f"forges-{wire}", wire, tokens=_FORGED, delay=0.02)
    text = "".join(_FORGED)
    other = shared.client(shared.common_server(1))
    started = await client.start("Forge something.", model)
    here, there = Transcript(), Transcript()
    await asyncio.gather(client.read(started["sessionId"], here), other.read(started["sessionId"], there))
    for reading in (here, there):
        assert reading.text == text
        # Who comes when there is text already is not told that it is being typed.
        assert {"start", "token", "done"} <= set(reading.types()) <= {"start", "typing", "token", "done"}
        assert reading.end == reading.events[-1]
    assert text_of(await other.reply(started)) == text
    [[stored]] = shared.sql("select parts -> 0 ->> 'text' from messages where id = %s", started["replyId"])
    assert stored == text
    _, cached = await other.ask("Forge something.", model)
    assert cached.source == "cache"
    assert cached.text == text
    # From wherever a reader resumes, the rest is the rest.
    assert here.cursor is not None
    epoch, _, end = here.cursor.partition("-")
    assert int(end) == len(text)

    async def resume(position: int) -> None:
        resumed = Transcript()
        resumed.cursor = f"{epoch}-{position}"
        await (client if position % 2 else other).read(started["sessionId"], resumed)
        if position == len(text):
            assert resumed.status == 204
        else:
            assert resumed.text == text[position:]
            assert resumed.types() == ["start", "token", "done"]

    for first in range(0, len(text) + 1, 16):
        await asyncio.gather(*(resume(position) for position in range(first, min(first + 16, len(text) + 1))))


@wires
async def test_39_resumed_at_every_position_while_it_is_written(shared: World, wire: str) -> None:
    model = shared.model(f"forges-slowly-{wire}", wire, tokens=_FORGED, delay=0.1)
    text = "".join(_FORGED)
    # Far more readers than a session may have by default.
    client, other = (shared.client(shared.server(SESSION_READERS="0")) for _ in range(2))
    started = await client.start("Forge slowly.", model)
    whole = Transcript()
    reads = asyncio.create_task(client.read(started["sessionId"], whole))
    await eventually(lambda: len(whole.text) > 30)
    assert whole.cursor is not None
    epoch, _, reached = whole.cursor.partition("-")

    async def resume(one: Client, position: int) -> None:
        resumed = Transcript()
        resumed.cursor = f"{epoch}-{position}"
        await one.read(started["sessionId"], resumed)
        assert text[:position] + resumed.text == text
        assert "reset" not in resumed.types()

    await asyncio.gather(
        reads, *(resume(one, position) for position in range(int(reached)) for one in (client, other))
    )
    assert whole.text == text
