"""Equal questions share one call to the provider, and none of them suffers another: rows 9 and 10."""

import asyncio
from itertools import count
from typing import Any

import pytest

from local.fake_provider import reply_to
from tests.client import Client, Transcript, eventually, text_of
from tests.processes import Server
from tests.world import World

processes = pytest.mark.parametrize("processes", [1, 2])
_WORDS = [f"{number} " for number in range(60)]
# Seven words, which the fake provider counts as seven tokens; its 17 characters are set aside as five.
_SHORT_WORDS = "Is it a 1 or a 2?"
_loaded: set[Server] = set()
_payers = count()


class Asker:
    """One of those who ask the same: reads along as long as it is there."""

    def __init__(self, client: Client, started: dict[str, Any]) -> None:
        self.client = client
        self.started = started
        self.reading = Transcript()
        self.reads = asyncio.create_task(client.read(started["sessionId"], self.reading))

    async def stop(self) -> None:
        """Stop, and see that the partial is saved and told."""
        await self.client.stop(self.started["sessionId"])
        await asyncio.wait_for(self.reads, 30)
        assert self.reading.end is not None
        assert self.reading.end["finishReason"] == "stopped"
        assert self.reading.end["saved"] is True
        reply = await self.client.reply(self.started)
        assert reply["status"] == "stopped"
        assert text_of(reply) == self.reading.text

    async def finish(self, text: str) -> None:
        """See that the whole reply comes and is saved."""
        await asyncio.wait_for(self.reads, 60)
        assert self.reading.end is not None
        assert self.reading.end["finishReason"] == "stop"
        assert self.reading.text == text
        assert "reset" not in self.reading.types()
        reply = await self.client.reply(self.started)
        assert (reply["status"], text_of(reply)) == ("complete", text)


async def _askers(world: World, model: str, prompt: str, count: int, processes: int) -> list[Asker]:
    """Have several users ask the same at once, each in the next process, and wait until all have text."""
    clients = [
        world.client(world.common_server(number % processes), ("demo-pro", "demo-free")[number // 2 % 2])
        for number in range(count)
    ]
    # A process's first call loads the SDK; all should be there before the reply is over.
    for number, client in enumerate(clients[:processes]):
        server = world.common_server(number)
        if server not in _loaded:
            _loaded.add(server)
            await client.ask("Load.", world.model("load-coalescing"), regenerate=True)
    started = await asyncio.gather(*(client.start(prompt, model) for client in clients))
    askers = [Asker(client, one) for client, one in zip(clients, started, strict=True)]
    await eventually(lambda: all(asker.reading.text for asker in askers))
    return askers


async def _go_on(askers: list[Asker]) -> None:
    """Wait until each has more text than now."""
    now = [len(asker.reading.text) for asker in askers]

    def more() -> bool:
        return all(len(asker.reading.text) > length for asker, length in zip(askers, now, strict=True))

    await eventually(more)


def _sources(askers: list[Asker]) -> list[str]:
    return sorted(asker.reading.source for asker in askers)


@processes
async def test_09_equal_questions_at_once(shared: World, processes: int) -> None:
    model = shared.model(f"many-{processes}", tokens=_WORDS, delay=0.03)
    askers = await _askers(shared, model, "What do we all want?", 16, processes)
    await asyncio.gather(*(asker.finish("".join(_WORDS)) for asker in askers))
    assert shared.fake.calls(model) == 1
    assert _sources(askers) == ["joined"] * 15 + ["provider"]
    # Each has its own chat, message and session.
    for name in ("sessionId", "chatId", "messageId", "replyId"):
        assert len({asker.started[name] for asker in askers}) == 16
    usages = [(await asker.client.reply(asker.started))["usage"] for asker in askers]
    assert all(usage == usages[0] is not None for usage in usages)


async def test_09_one_after_the_other_while_it_is_written(shared: World) -> None:
    model = shared.model("joiners", tokens=_WORDS, delay=0.04)
    [first] = await _askers(shared, model, "Who joins late?", 1, 1)
    askers = [first]
    for number in range(6):
        await asyncio.sleep(0.2)
        client = shared.client(shared.common_server(number % 2))
        askers.append(Asker(client, await client.start("Who joins late?", model)))
    await asyncio.gather(*(asker.finish("".join(_WORDS)) for asker in askers))
    assert shared.fake.calls(model) == 1


@processes
async def test_09_a_failure_reaches_all_and_is_asked_for_once(shared: World, processes: int) -> None:
    model = shared.model(f"fails-{processes}", tokens=_WORDS, delay=0.02, fault="reset", fault_after=50)
    askers = await _askers(shared, model, "Who fails?", 8, processes)
    text = "".join(_WORDS[:50])
    await asyncio.gather(*(asker.reads for asker in askers))
    for asker in askers:
        assert asker.reading.text == text
        assert asker.reading.end is not None
        assert asker.reading.end["code"] == "provider_interrupted"
        reply = await asker.client.reply(asker.started)
        assert (reply["status"], text_of(reply)) == ("failed", text)
    assert shared.fake.calls(model) == 1


async def test_09_questions_in_a_context_are_shared_with_nobody(shared: World) -> None:
    opener, model = shared.model("opener"), shared.model("contexts", tokens=_WORDS, delay=0.01)
    clients = [
        shared.client(shared.common_server(number % 2), user)
        for number, user in enumerate(("demo-pro", "demo-free"))
    ]
    readings = []
    chats = [(await client.ask("The same opening.", opener))[0]["chatId"] for client in clients]
    started = [
        await client.start("And then?", model, chatId=chat)
        for client, chat in zip(clients, chats, strict=True)
    ]
    readings = await asyncio.gather(
        *(client.read(one["sessionId"]) for client, one in zip(clients, started, strict=True))
    )
    assert [reading.source for reading in readings] == ["provider", "provider"]
    assert shared.fake.calls(model) == 2


@processes
@pytest.mark.parametrize("who", ["provider", "joined"])
async def test_10_one_stops_and_the_others_go_on(shared: World, processes: int, who: str) -> None:
    model = shared.model(f"one-{processes}-{who}", tokens=_WORDS, delay=0.05)
    askers = await _askers(shared, model, "Who stops first?", 6, processes)
    quitter = next(asker for asker in askers if asker.reading.source == who)
    others = [asker for asker in askers if asker is not quitter]
    closed = shared.fake.stats()["closedEarly"]
    await quitter.stop()
    assert 0 < len(quitter.reading.text) < len("".join(_WORDS))
    await asyncio.gather(*(asker.finish("".join(_WORDS)) for asker in others))
    assert shared.fake.calls(model) == 1
    assert shared.fake.stats()["closedEarly"] == closed
    # What it stopped at stays; asking again is a hit with the whole.
    again, reading = await quitter.client.ask("Who stops first?", model)
    assert reading.source == "cache"
    assert reading.text == text_of(await quitter.client.reply(again)) == "".join(_WORDS)
    assert text_of(await quitter.client.reply(quitter.started)) == quitter.reading.text


@processes
async def test_10_the_call_ends_when_the_last_one_stops(shared: World, processes: int) -> None:
    model = shared.model(f"last-{processes}", count=5000, delay=0.02)
    askers = await _askers(shared, model, "Who stops last?", 6, processes)
    closed = shared.fake.stats()["closedEarly"]
    # The writer's own session among the first: its process goes on writing for the others.
    askers.sort(key=lambda asker: asker.reading.source != "provider")
    for number, asker in enumerate(askers):
        stats = shared.fake.stats()
        assert (stats["closedEarly"], stats["active"]) == (closed, 1), number
        await asker.stop()
        await _go_on(askers[number + 1 :])
    shared.fake.until(lambda stats: stats["closedEarly"] == closed + 1 and not stats["active"])
    assert shared.fake.calls(model) == 1
    # What was stopped answers nobody: the next one is asked for anew.
    shared.model(model, tokens=_WORDS)
    _, reading = await askers[0].client.ask("Who stops last?", model)
    assert reading.text == "".join(_WORDS)
    assert reading.source == "provider"
    assert "reset" not in reading.types()
    assert shared.fake.calls(model) == 1


@processes
async def test_10_all_stop_at_once(shared: World, processes: int) -> None:
    model = shared.model(f"all-{processes}", count=5000, delay=0.02)
    askers = await _askers(shared, model, "Who stops now?", 6, processes)
    closed = shared.fake.stats()["closedEarly"]
    stopping = asyncio.gather(*(asker.stop() for asker in askers))
    await asyncio.to_thread(shared.fake.until, lambda stats: stats["closedEarly"] == closed + 1)
    await stopping
    assert shared.fake.calls(model) == 1


@processes
async def test_10_one_joins_as_the_last_one_stops(shared: World, processes: int) -> None:
    """Whoever comes at that moment gets a whole reply: of this call, or of one of its own."""
    model = shared.model(f"join-{processes}", tokens=_WORDS, delay=0.01)
    for number in range(8):
        prompt = f"Who comes and goes, {number}?"
        [first] = await _askers(shared, model, prompt, 1, 1)
        client = shared.client(shared.common_server(processes - 1))
        started = await client.start(prompt, model)
        stopping = asyncio.create_task(first.client.stop(first.started["sessionId"]))
        await asyncio.sleep(number * 0.002)
        reading = await asyncio.wait_for(client.read(started["sessionId"]), 60)
        await stopping
        await first.reads
        assert reading.end is not None
        assert reading.end["finishReason"] == "stop"
        assert reading.text == text_of(await client.reply(started)) == "".join(_WORDS)
        stopped = await first.client.reply(first.started)
        assert stopped["status"] in ("stopped", "complete")
        assert text_of(stopped) == first.reading.text


async def _each_in_a_process(world: World, model: str, users: list[str]) -> list[Asker]:
    """Have each of the users ask the same in a process of its own, the first of them as the writer."""
    for user in set(users):
        world.sql("insert into users (id, plan_id) values (%s, 'pro')", user)
    askers: list[Asker] = []
    for number, user in enumerate(users):
        client = world.client(world.common_server(number), user)
        askers.append(Asker(client, await client.start(_SHORT_WORDS, model)))
        await eventually(lambda: bool(askers[-1].reading.text))
    assert [asker.reading.source for asker in askers] == ["provider"] + ["joined"] * (len(users) - 1)
    return askers


def _the_asker(world: World, askers: list[Asker]) -> Asker | None:
    """Return the one that is charged for what is produced now."""
    ids = {asker.started["sessionId"]: asker for asker in askers}
    rows = world.sql(
        "select id from sessions where asked_model and state = 'streaming' and id = any(%s)", list(ids)
    )
    assert len(rows) <= 1
    return ids[rows[0][0]] if rows else None


def _paid(world: World, users: list[str]) -> dict[str, tuple[int, int]]:
    rows = world.sql(
        "select user_id, input_tokens::int, output_tokens::int from token_usage"
        " where user_id = any(%s)", users
    )  # fmt: skip
    return {user: (given, returned) for user, given, returned in rows}


@pytest.mark.parametrize("payers", [(0, 0), (0, 1), (0, 0, 0), (0, 1, 2)], ids=lambda payers: f"{payers}")
@pytest.mark.parametrize("stops", ["in the reader's process", "in the last one's"])
async def test_10_who_reads_on_in_another_process_is_charged_for_the_rest(
    shared: World, payers: tuple[int, ...], stops: str
) -> None:
    family = next(_payers)
    users = [f"payer-{family}-{payer}" for payer in payers]
    model = shared.model(f"payers-{family}", tokens=_WORDS * 2, delay=0.04)
    askers = await _each_in_a_process(shared, model, users)
    # Each of them pays in its turn, until it stops; the last one reads to the end.
    left = list(askers)
    while len(left) > 1:
        await eventually(lambda: _the_asker(shared, left) is not None)
        quitter = _the_asker(shared, left)
        assert quitter is not None
        left.remove(quitter)
        if stops == "in the last one's":
            last = shared.common_server(len(users) - 1)
            await shared.client(last, quitter.client.user).stop(quitter.started["sessionId"])
        await quitter.stop()
        assert 0 < len(quitter.reading.text) < len("".join(_WORDS * 2))
        await _go_on(left)
    await left[0].finish("".join(_WORDS * 2))
    assert left[0].reading.end is not None
    usage = left[0].reading.end["usage"]
    assert (usage["inputTokens"], usage["outputTokens"]) == (7, 2 * len(_WORDS))
    assert shared.fake.calls(model) == 1
    paid = _paid(shared, users)
    assert tuple(map(sum, zip(*paid.values(), strict=True))) == (7, 2 * len(_WORDS))
    # Everybody pays something: the first one for the question, all of them for what came in their turn.
    assert set(paid) == set(users)
    assert all(returned > 0 for _, returned in paid.values())


@pytest.mark.parametrize("users", [1, 2])
async def test_10_a_stop_just_before_the_end_is_charged_once(shared: World, users: int) -> None:
    """Wherever the stop meets the end, nobody is charged twice, and nothing is charged to nobody."""
    text = "".join(_WORDS * 2)
    for moment in range(5):
        family = next(_payers)
        names = [f"payer-{family}-{number % users}" for number in range(2)]
        model = shared.model(f"payers-{family}", tokens=_WORDS * 2, delay=0.03)
        askers = await _each_in_a_process(shared, model, names)
        left = 60 - 14 * moment
        await eventually(lambda: len(askers[1].reading.text) > len(text) - left)  # noqa: B023 - in its round
        await askers[0].client.stop(askers[0].started["sessionId"])
        await asyncio.wait_for(asyncio.gather(*(asker.reads for asker in askers)), 60)
        assert askers[1].reading.text == text
        paid = _paid(shared, names)
        assert tuple(map(sum, zip(*paid.values(), strict=True))) == (7, 2 * len(_WORDS)), (moment, paid)


async def test_10_readers_leaving_stop_nothing(shared: World) -> None:
    model = shared.model("leavers", tokens=_WORDS, delay=0.02)
    askers = await _askers(shared, model, "Who stays?", 4, 2)
    for asker in askers:
        asker.reads.cancel()
    await asyncio.gather(*(asker.reads for asker in askers), return_exceptions=True)

    async def saved() -> bool:
        replies = [await asker.client.reply(asker.started) for asker in askers]
        return all(reply["status"] == "complete" and text_of(reply) == "".join(_WORDS) for reply in replies)

    await eventually(saved)
    assert shared.fake.calls(model) == 1


async def test_10_a_shared_call_retries_for_all(shared: World) -> None:
    model = shared.model("retries", status=529, status_times=2, retry_after_ms="400")
    clients = [shared.client(shared.common_server(number % 2)) for number in range(4)]
    results = await asyncio.gather(*(client.ask("Who is patient?", model) for client in clients))
    for _, reading in results:
        assert reading.text == reply_to("Who is patient?")
        assert reading.types()[-1] == "done"
    assert shared.fake.calls(model) == 3
