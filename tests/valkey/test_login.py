"""A password of Valkey's that is rotated under a running process."""

from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest
import redis

from local.embedded import Addresses
from parley.domain.errors import LogUnavailable, Unavailable
from parley.support.wakeup import Wakeup
from parley.valkey.log import ValkeyLog
from parley.valkey.macs import Macs
from tests.client import eventually


class Rotation:
    """The password that Valkey has, the one that a process is told of, and how often it asked."""

    def __init__(self, stores: Addresses) -> None:
        self._server = redis.Redis.from_url(stores.valkey_url)
        self._host = urlsplit(stores.valkey_url).netloc.rpartition("@")[2]
        self.asked: list[str] = []
        self.away = False
        self.told = self.url("old")
        self.server("old")

    def url(self, password: str) -> str:
        return f"redis://app:{password}@{self._host}/0"

    def server(self, password: str) -> None:
        self._server.acl_setuser(
            "app", enabled=True, reset=True, passwords=[f"+{password}"], keys=["*"], channels=["*"],
            categories=["+@all"],
        )  # fmt: skip

    def cut(self, kind: str) -> None:
        """Cut the user's connections: `normal` ones, or those that are `pubsub`."""
        self._server.client_kill_filter(_type=kind, skipme=True)

    def subscribers(self, channel: str) -> int:
        [(_, count)] = self._server.pubsub_numsub(channel)
        return int(count)

    async def renew(self, refused: str) -> str:
        self.asked.append(refused)
        if self.away:
            raise Unavailable("Away.", retry_after=2)
        return self.told

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def rotation(own_valkey: Addresses) -> Iterator[Rotation]:
    made = Rotation(own_valkey)
    yield made
    made.close()


@pytest.fixture
async def log(rotation: Rotation) -> AsyncIterator[ValkeyLog]:
    made = ValkeyLog(
        rotation.url("old"),
        macs=Macs("a secret that only this test knows, long enough"),
        prefix="test",
        timeout=5,
        lease_seconds=5,
        cache_seconds=60,
        renew=rotation.renew,
    )
    yield made
    await made.close()


async def _answers(log: ValkeyLog) -> bool:
    try:
        await log.check()
    except LogUnavailable:
        return False
    return True


async def test_a_refused_password_is_fetched_anew(log: ValkeyLog, rotation: Rotation) -> None:
    await log.check()
    rotation.server("new")
    rotation.told = rotation.url("new")
    # A connection that has logged in stays.
    await log.check()
    assert rotation.asked == []
    rotation.cut("normal")
    with pytest.raises(LogUnavailable):
        await log.check()
    await eventually(lambda: _answers(log))
    assert set(rotation.asked) == {rotation.url("old")}


async def test_a_source_of_passwords_that_is_away_is_asked_again(
    log: ValkeyLog, rotation: Rotation, caplog: pytest.LogCaptureFixture
) -> None:
    await log.check()
    rotation.server("new")
    rotation.told, rotation.away = rotation.url("new"), True
    rotation.cut("normal")
    with pytest.raises(LogUnavailable):
        await log.check()
    await eventually(lambda: len(rotation.asked) >= 2)
    rotation.away = False
    await eventually(lambda: _answers(log))
    assert "login_not_renewed" in [record.getMessage() for record in caplog.records]
    assert "old" not in caplog.text


async def test_subscriptions_log_in_with_the_new_password_too(log: ValkeyLog, rotation: Rotation) -> None:
    await log.watch("k", Wakeup())
    rotation.server("new")
    rotation.told = rotation.url("new")
    # The connection for commands stays, and has no reason to ask.
    rotation.cut("pubsub")
    await eventually(lambda: rotation.subscribers("test:{k}") == 1)
    assert set(rotation.asked) == {rotation.url("old")}


async def test_a_first_subscription_that_is_refused_fetches_the_password(
    log: ValkeyLog, rotation: Rotation
) -> None:
    await log.check()
    rotation.server("new")
    rotation.told = rotation.url("new")
    with pytest.raises(LogUnavailable):
        await log.watch("k", Wakeup())

    async def watched() -> bool:
        try:
            await log.watch("k", Wakeup())
        except LogUnavailable:
            return False
        return True

    await eventually(watched)
    assert set(rotation.asked) == {rotation.url("old")}


async def test_a_url_without_a_password_logs_in_as_nobody(own_valkey: Addresses) -> None:
    host = urlsplit(own_valkey.valkey_url).netloc.rpartition("@")[2]
    log = ValkeyLog(
        f"redis://{host}/0",
        macs=Macs("a secret that only this test knows, long enough"),
        prefix="test",
        timeout=5,
        lease_seconds=5,
        cache_seconds=60,
    )
    with pytest.raises(LogUnavailable):
        await log.check()
    await log.close()
