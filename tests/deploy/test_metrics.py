"""The template's metric filters find what a server really writes; what it writes fits Lambda's log."""

import asyncio
import contextlib
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from local.embedded import Addresses
from local.seed import seed
from tests.client import Transcript, eventually
from tests.deploy.filters import matches, values
from tests.deploy.templates import Node, load, of_type
from tests.processes import Fake
from tests.world import World

TEMPLATE = load()
# By their log group and their metric: two groups may make one.
FILTERS = {
    (item["LogGroupName"]["Ref"], item["MetricTransformations"][0]["MetricName"]): item
    for item in (found["Properties"] for found in of_type(TEMPLATE, "AWS::Logs::MetricFilter").values())
}


@pytest.fixture
async def world(tmp_path: Path, own_postgres: Addresses, valkey_url: str, fake: Fake) -> AsyncIterator[World]:
    await seed(own_postgres.database_url)
    made = World(tmp_path, own_postgres.database_url, valkey_url, fake)
    yield made
    await made.close()


def _send(postgres: int, number: signal.Signals) -> None:
    """Send a signal to a Postgres and its backends."""
    for pid in (postgres, *map(int, Path(f"/proc/{postgres}/task/{postgres}/children").read_text().split())):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


async def test_each_metric_counts_what_happened(world: World, own_postgres: Addresses) -> None:
    server = world.server(DATABASE_TIMEOUT="1")
    client = world.client(server)
    model = world.model("measured", delay=0.02)
    opening, _ = await client.ask("How long does it take?", model)
    # Told while it is streamed, for the chat's context comes with it; then told when it is asked for.
    await client.ask("How long does it take?", model, chatId=opening["chatId"])
    await client.ask("How long does it take?", model)
    _, failed = await client.ask("Break off.", world.model("broken", fault="reset", fault_after=2))
    assert failed.end is not None
    assert failed.end["type"] == "error"
    started = await client.start("Will it be saved?", model)
    reading = Transcript()
    reads = asyncio.create_task(client.read(started["sessionId"], reading))
    await eventually(lambda: reading.text)
    _send(own_postgres.postgres_pid, signal.SIGSTOP)
    await asyncio.wait_for(reads, 60)
    # As CloudWatch gets it: what the process wrote to its standard output, a line an event.
    assert server.out is not None
    written = server.out
    # The save gives up before the database is back, however slow this machine is.
    await eventually(lambda: '"reply_parked"' in written.read_text())
    _send(own_postgres.postgres_pid, signal.SIGCONT)
    # A reply's line comes right after its last frame.
    await eventually(lambda: written.read_text().count('"reply_ended"') == 5)
    lines = [line for line in written.read_text().split("\n") if line]
    entries = [json.loads(line) for line in lines]
    found = {name: _published(item, entries) for name, item in FILTERS.items()}
    # Here one process writes what two functions write in AWS.
    for group in ("StreamLogs", "StartLogs"):
        assert found[group, "Replies"] == [1.0] * 5
        assert found[group, "CacheHits"] == [1.0] * 2
    assert found["StreamLogs", "RepliesFailed"] == [1.0]
    assert found["StreamLogs", "RepliesParked"] == [1.0]
    assert len(found["StreamLogs", "StreamSeconds"]) == 4
    for group in ("StreamLogs", "StartLogs"):
        assert len(found[group, "FirstTokenMs"]) == 5
        assert all(value >= 0 for value in found[group, "FirstTokenMs"])
    # Twenty milliseconds a token, and a cached reply has none to wait for.
    first, hit, *_ = found["StreamLogs", "StreamSeconds"]
    assert first >= 0.02
    assert hit > 0
    known = [entry for entry in entries if entry["message"] == "reply_ended" and "seconds" not in entry]
    said = [(entry["source"], entry["status"], entry["saved"]) for entry in known]
    assert said == [("cache", "complete", True)]


def _published(item: Node, entries: list[dict[str, Any]]) -> list[float]:
    pattern = item["FilterPattern"]
    return values(item["MetricTransformations"][0], [entry for entry in entries if matches(pattern, entry)])


def test_every_metric_is_shown_and_every_alarm_has_its_metric() -> None:
    shown = TEMPLATE["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    assert all(f'"{name}"' in shown for _, name in FILTERS)
    alarmed = {
        item["Properties"]["MetricName"]
        for item in of_type(TEMPLATE, "AWS::CloudWatch::Alarm").values()
        if item["Properties"].get("Namespace") == {"Ref": "AWS::StackName"}
    }
    assert alarmed == {"FirstTokenMs", "RepliesFailed", "RepliesParked"}
    for item in FILTERS.values():
        assert item["MetricTransformations"][0]["MetricNamespace"] == {"Ref": "AWS::StackName"}
    # CloudFormation puts names in; what is left must be JSON.
    assert len(json.loads(re.sub(r"\$\{[^}]*\}", "x", shown))["widgets"]) > 5


def test_a_pattern_that_is_not_understood_is_no_match() -> None:
    with pytest.raises(ValueError):
        matches("{ $.message = reply }", {})
    with pytest.raises(ValueError):
        matches("reply_ended", {})
    assert not matches("{ $.seconds >= 0 }", {"seconds": "1"})
    assert not matches("{ $.seconds >= 0 }", {})
