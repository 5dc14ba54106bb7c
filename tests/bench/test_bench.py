"""What the benchmark is built of measures what it says: the upstream, the driver, a floor, the tables."""

import asyncio
import contextlib
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import machine
from bench.driver import BadAnswer, Connection, ask, crowd, get, percentile, post, require
from bench.report import Column, Table, markdown, ms
from bench.servers import Process, Upstream
from bench.sheet import Sheet
from local.files import free_port
from parley.domain.events import Delta, Finish, FinishReason
from parley.domain.ports import ChatModel
from parley.providers.anthropic import AnthropicModel
from parley.providers.openai import OpenAIModel
from tests.providers.chat_models import question

_PYTHON = Path(sys.executable)


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Upstream]:
    """Return the upstream, in a process of its own."""
    started = Upstream(_PYTHON, tmp_path, free_port())
    yield started
    started.stop()


@pytest.fixture
def relay(tmp_path: Path, upstream: Upstream) -> Iterator[str]:
    """Return the URL of the floor of relays."""
    port = free_port()
    command: list[str | Path] = [_PYTHON, "-m", "bench.floor.relay", "--port", str(port)]
    env = {"OPENAI_BASE_URL": f"{upstream.url}/v1"}
    process = Process(command, env, tmp_path / "relay.log", core=machine.SERVER_CORE)
    process.wait_for_port(f"http://127.0.0.1:{port}")
    yield f"http://127.0.0.1:{port}"
    process.stop()


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_the_upstream_speaks_both_wires(upstream: Upstream, provider: str) -> None:
    model: ChatModel
    if provider == "openai":
        model = OpenAIModel(api_key="key", base_url=f"{upstream.url}/v1")
    else:
        model = AnthropicModel(api_key="key", base_url=upstream.url)
    events = [event async for event in model.stream(question("full-37", "?"))]
    await model.close()
    assert "".join(e.text for e in events if isinstance(e, Delta)).count("~") == 37
    [end] = [e for e in events if isinstance(e, Finish)]
    assert end.reason is FinishReason.STOP
    assert (await upstream.stats())["calls"] == 1


async def test_slow_tokens_come_at_their_pace(upstream: Upstream) -> None:
    body = {"model": "slow-11", "messages": []}
    exchange = await ask(upstream.url, post("/v1/chat/completions", body), keep=False)
    assert exchange.tokens == 11
    # Since the request: the first token may be late on a busy machine, the last one is never early.
    assert exchange.last >= 9 / 20  # a tick may follow the first token at once


async def test_a_reply_under_way_can_be_ended(upstream: Upstream) -> None:
    connection = await Connection.to(upstream.url)
    exchange = connection.send(post("/v1/chat/completions", {"model": "slow-100000", "messages": []}))
    await exchange.began
    await upstream.end()
    await exchange.done
    assert 1 <= exchange.tokens < 100
    connection.close()


async def test_the_driver_counts_and_times_what_a_relay_sends(relay: str) -> None:
    requests = [get("/relay", model="full-200", prompt=f"{n}") for n in range(20)]
    exchanges = await crowd(relay, requests, at_once=4)
    require(exchanges, tokens=200)
    assert len(exchanges) == 20
    assert all(0 < each.first <= each.last for each in exchanges)
    with pytest.raises(BadAnswer):
        require(exchanges, tokens=201)


async def test_a_broken_connection_is_no_answer(upstream: Upstream) -> None:
    connection = await Connection.to(upstream.url)
    exchange = connection.send(post("/v1/chat/completions", {"model": "slow-100000", "messages": []}))
    await exchange.began
    upstream.stop()
    with pytest.raises(BadAnswer):
        await exchange.done
    assert math.isnan(exchange.last)


def test_a_table_compares_with_its_baseline() -> None:
    sheet = Sheet()
    sheet.add("t", "floor", "x", 0.001, 0.002, 0.009)
    sheet.add("t", "other", "x", 0.005)
    sheet.add("elsewhere", "third", "y", 1.0)
    table = Table("Title", "About.", (Column("x, ms", "t", "x", ms, "floor"),))
    text = markdown(sheet, [table], ["other", "floor"])
    assert "| other | 5.00 (2.5×) |\n| floor | 2.00 |" in text
    assert "third" not in text


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(number) for number in range(1, 101)]
    assert percentile(values, 0.99) == 99
    assert percentile(values[:1], 0.99) == 1


def test_processor_time_is_that_of_the_process(upstream: Upstream) -> None:
    pids = machine.family(upstream.process.pid)
    assert 0 < machine.cpu_seconds(pids) < 60
    assert machine.memory_bytes(pids) > 2**20


async def test_the_relay_that_is_further_away_passes_everything_on_in_order(tmp_path: Path) -> None:
    served: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(writer)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port, to = free_port(), server.sockets[0].getsockname()[1]
        command: list[str | Path] = [_PYTHON, "-m", "bench.delay", "--port", str(port), "--to", str(to)]
        process = Process(
            [*command, "--milliseconds", "1"], {}, tmp_path / "relay.log", core=machine.OTHER_CORE
        )
        process.wait_for_port(f"http://127.0.0.1:{port}")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        sent = bytes(range(256)) * 4000
        writer.write(sent)
        assert await reader.readexactly(len(sent)) == sent
        begin = time.monotonic()
        for number in range(20):
            writer.write(b"%d" % number)
            assert await reader.readexactly(len(b"%d" % number)) == b"%d" % number
        # Never sooner; how much later depends on the machine.
        assert time.monotonic() - begin >= 20 * 0.001
        writer.close()
        process.stop()
        for each in (writer, *served):
            with contextlib.suppress(ConnectionError):
                await each.wait_closed()
