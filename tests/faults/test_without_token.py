"""Guesses of session ids, and questions about health: what anybody may send costs the database nothing."""

import asyncio
import secrets
import time

from parley.domain.ids import SessionIds
from parley.usecases.health import GOOD_FOR
from tests.client import eventually, text_of
from tests.faults.proxy import FaultProxy
from tests.processes import KEY_SECRET
from tests.world import SESSION_IDS, World

OTHER_SECRET = "another secret that only the tests know, long enough"


async def test_18_a_hundred_forged_session_ids_send_nothing_to_postgres(shared: World) -> None:
    async with FaultProxy(shared.database_url) as proxy:
        client = shared.client(shared.server(DATABASE_URL=proxy.url))

        async def guess(session_id: str) -> bytes:
            stream = await client.http.get("/chat/stream", params={"sessionId": session_id})
            stop = await client.http.post("/chat/stop", json={"sessionId": session_id})
            assert (stream.status_code, stop.status_code) == (404, 404)
            assert stream.content == stop.content
            return stream.content

        # An id with a MAC of this installation, and one in the old form, are looked up.
        answers = set()
        for made in (SESSION_IDS.new(), secrets.token_urlsafe(24)):
            before = proxy.up.bytes
            answers.add(await guess(made))
            assert proxy.up.bytes > before
        before = proxy.up.bytes
        others = SessionIds(OTHER_SECRET)
        for _ in range(25):
            made = SESSION_IDS.new()
            for forged in (others.new(), secrets.token_urlsafe(39), made[:-1], made[:32] + made[:20]):
                answers.add(await guess(forged))
        assert proxy.up.bytes == before
        assert len(answers) == 1


async def test_18_a_hundred_questions_about_health_cost_one_check(shared: World) -> None:
    async with FaultProxy(shared.database_url) as proxy:
        client = shared.client(shared.server(DATABASE_URL=proxy.url, DATABASE_POOL_SIZE="1"))
        begun = time.monotonic()
        assert (await client.http.get("/health")).status_code == 200
        one_check = proxy.up.bytes
        assert one_check > 0
        answers = await asyncio.gather(*(client.http.get("/health") for _ in range(100)))
        assert {answer.status_code for answer in answers} == {200}
        # None where the hundred took less than that.
        further_checks = int((time.monotonic() - begun) / GOOD_FOR)
        assert proxy.up.bytes <= one_check * (1 + further_checks)


async def test_44_health_tells_of_a_database_that_went_away_and_came_back(shared: World) -> None:
    async with FaultProxy(shared.database_url) as proxy:
        client = shared.client(shared.server(DATABASE_URL=proxy.url))

        async def status() -> int:
            return (await client.http.get("/health")).status_code

        async def is_ill() -> bool:
            return await status() == 503

        async def is_well() -> bool:
            return await status() == 200

        assert await is_well()
        await proxy.refuse()
        proxy.reset()
        await eventually(is_ill)
        await proxy.heal()
        await eventually(is_well)


async def test_an_id_of_the_release_before_opens_its_session(shared: World) -> None:
    client = shared.client(shared.common_server())
    started = await client.start("Am I old?")
    old = secrets.token_urlsafe(24)
    shared.sql("update sessions set id = %s where id = %s", old, started["sessionId"])
    reading = await client.read(old)
    assert reading.text == text_of(await client.reply(started))
    assert (await client.http.post("/chat/stop", json={"sessionId": old})).status_code == 202


async def test_a_rotation_of_the_key_secret_loses_no_session(shared: World) -> None:
    announced = {"KEY_SECRET": KEY_SECRET, "KEY_SECRET_PREVIOUS": OTHER_SECRET}
    rotated = {"KEY_SECRET": OTHER_SECRET, "KEY_SECRET_PREVIOUS": KEY_SECRET}
    # Each step is deployed while processes of the step before still run.
    steps = [{"KEY_SECRET": KEY_SECRET}, announced, rotated, {"KEY_SECRET": OTHER_SECRET}]
    servers = [shared.common_server(0, **step) for step in steps]
    clients = [shared.client(server) for server in servers]
    for number, opens in enumerate(clients):
        for reads in clients[max(0, number - 1) : number + 2]:
            started = await opens.start("Who made my id?")
            assert (await reads.read(started["sessionId"])).text == text_of(await opens.reply(started))
    for opens, stranger in ((clients[0], clients[-1]), (clients[-1], clients[0])):
        started = await opens.start("Who knows me?")
        refused = await stranger.http.get("/chat/stream", params={"sessionId": started["sessionId"]})
        assert refused.status_code == 404
