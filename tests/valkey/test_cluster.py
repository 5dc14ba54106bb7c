"""Valkey in cluster mode: one shard behind one address serves, and one of several is refused."""

import asyncio
import logging
from collections.abc import Iterator

import pytest
import redis

from parley.domain.errors import LogUnavailable
from parley.domain.ports import Log
from parley.domain.results import Write
from parley.valkey.client import is_sharded
from parley.valkey.log import ValkeyLog
from tests.conformance.backends import MACS, ValkeyLogStage
from tests.conformance.log_suite import LogSuite, check_parked_replies_and_probes
from tests.valkey.cluster import cluster


@pytest.fixture(scope="module")
def one_shard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with cluster(tmp_path_factory.mktemp("cluster"), shards=1) as (url,):
        yield url


@pytest.fixture(scope="module")
def two_shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    with cluster(tmp_path_factory.mktemp("shards"), shards=2) as urls:
        yield urls


class TestLogOnACluster(LogSuite):
    """A server in cluster mode refuses a script whose keys are in different slots."""

    @pytest.fixture
    def bare_stage(self, one_shard: str) -> ValkeyLogStage:
        with redis.Redis.from_url(one_shard) as server:
            server.flushall()
        return ValkeyLogStage(one_shard)

    async def test_parked_replies_and_probes_are_in_one_slot_each(self, log: Log) -> None:
        await check_parked_replies_and_probes(log)


async def test_a_shard_is_recognised_and_a_whole_server_is_not_taken_for_one(
    one_shard: str, two_shards: list[str], valkey_url: str
) -> None:
    for url in two_shards:
        assert await is_sharded(url, prefix="test", timeout=20)
    for url in (one_shard, valkey_url, "redis://127.0.0.1:1/0"):
        assert not await is_sharded(url, prefix="test", timeout=20)


async def test_a_shard_is_refused_with_a_sentence_and_asked_no_more(
    two_shards: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    log = ValkeyLog(two_shards[0], macs=MACS, prefix="test", timeout=20, lease_seconds=5, cache_seconds=60)
    joined, refused = 0, 0
    with caplog.at_level(logging.WARNING, "parley"):
        for number in range(64):
            try:
                assert isinstance(await log.join(f"k{number}", "s", "w", epoch=0, may_create=True), Write)
                joined += 1
            except LogUnavailable:
                refused += 1
        # Also later, and for keys that this shard has: a log of some generations would mislead all others.
        await asyncio.sleep(1.2)
        for number in range(8):
            with pytest.raises(LogUnavailable):
                await log.join(f"k{number}", "s", "w", epoch=0, may_create=True)
    assert refused > 32
    assert joined + refused == 64
    [record] = [record for record in caplog.records if record.message == "valkey_sharded"]
    assert "one shard of a cluster" in vars(record)["reason"]
    assert "log_available" not in [record.message for record in caplog.records]
    await log.close()
