"""No log line holds what a user or a model wrote, a session id or a key, whatever goes wrong."""

import asyncio
import json
import logging
import re
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

from parley.domain.events import Delta, Failed
from parley.support import logs
from parley.support.logs import JsonFormatter, logger, redact
from tests.in_memory import STOP, ScriptedModel, World, answer

PROMPT = "a prompt that nobody may see"
REPLY = "a reply that nobody may see"


@pytest.fixture
def lines() -> Iterator[StringIO]:
    """Everything that is logged at any level, by anybody, as it would be written."""
    out = StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter())
    root, before = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield out
    root.removeHandler(handler)
    root.setLevel(before)


def entries(lines: StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in lines.getvalue().split("\n") if line]


def test_a_line_is_json_with_named_fields(lines: StringIO) -> None:
    logger("here").warning("something_happened", extra={"epoch": 5, "odd": object})
    [entry] = entries(lines)
    assert entry["message"] == "something_happened"
    assert (entry["level"], entry["logger"], entry["epoch"]) == ("WARNING", "parley.here", 5)
    assert str(entry["timestamp"])[10] == "T"
    assert str(entry["timestamp"])[-5] == "."


def test_a_line_is_one_line_whatever_is_in_it(lines: StringIO) -> None:
    path = "/\u2028\x85\r\n\ud800é😀"
    logger("here").warning("something_happened", extra={"path": path})
    assert lines.getvalue().isascii()
    assert len(lines.getvalue().splitlines()) == 1
    [entry] = entries(lines)
    assert entry["path"] == path


def test_fields_that_hold_secrets_are_redacted(lines: StringIO) -> None:
    fields = {"prompt": PROMPT, "session_id": "s-1", "key": "k-1", "url": "redis://:pw@h", "count": 3}
    assert redact(fields) == dict.fromkeys(fields, "[redacted]") | {"count": 3}
    logger("here").error("oops", extra=fields)
    [entry] = entries(lines)
    assert entry["prompt"] == entry["session_id"] == "[redacted]"
    assert entry["count"] == 3


def test_a_traceback_names_places_and_quotes_nothing(lines: StringIO) -> None:
    def breaks(text: str) -> None:
        raise ValueError(f"cannot read {text}")

    try:
        try:
            breaks(PROMPT)
        except ValueError as error:
            raise RuntimeError(REPLY) from error
    except RuntimeError:
        logger("here").exception("it_broke")
    [entry] = entries(lines)
    assert entry["error"] == "RuntimeError"
    assert "test_logs.py" in str(entry["trace"])
    assert PROMPT not in lines.getvalue()
    assert REPLY not in lines.getvalue()


def test_other_libraries_words_are_not_passed_on(lines: StringIO) -> None:
    other = logging.getLogger("a.library")
    other.warning("could not send %s to %s", PROMPT, "host")
    other.warning("%s", PROMPT)
    other.warning(f"it failed\nwith {PROMPT}")
    other.warning("")
    assert [entry["message"] for entry in entries(lines)] == [
        "could not send %s to %s", "%s", "it failed", "",
    ]  # fmt: skip


async def test_a_task_that_nobody_awaited_does_not_tell(lines: StringIO) -> None:
    async def breaks() -> None:
        raise ValueError(PROMPT)

    task = asyncio.create_task(breaks())
    await asyncio.wait({task})
    del task
    await asyncio.sleep(0)
    assert "never retrieved" in lines.getvalue()
    assert PROMPT not in lines.getvalue()


def test_configure_writes_ours_from_a_level_on_and_others_warnings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    root, ours = logging.getLogger(), logging.getLogger("parley")
    before = (root.handlers, root.level, ours.level)
    try:
        logs.configure("INFO")
        logger("here").info("one")
        logger("here").debug("two")
        logging.getLogger("other").info("three")
        logging.getLogger("other").warning("four")
        out = capsys.readouterr().out
    finally:
        root.handlers, level, ours_level = before
        root.setLevel(level)
        ours.setLevel(ours_level)
    assert [json.loads(line)["message"] for line in out.split("\n") if line] == ["one", "four"]
    assert sys.stdout is not None


@pytest.mark.parametrize(
    "script",
    [
        (Delta(REPLY), STOP),
        (Delta(REPLY), RuntimeError(f"{PROMPT} {REPLY}")),
        (ValueError(PROMPT),),
        (Delta(REPLY),),
    ],
)
async def test_a_session_s_life_in_the_log(lines: StringIO, script: tuple[Delta | Exception, ...]) -> None:
    world = await World().open()
    process = world.process(ScriptedModel(*script), renew_every=0.05, session_lease=0.4)
    started = await process.start(PROMPT)
    process.store_switch.turn_off("finish")
    run = await process.read(started.session_id)
    found = await answer(run)
    process.store_switch.turn_off()
    await answer(process.runner.open(await world.stage.store().session(started.session_id), None))
    process.store_switch.turn_on()
    process.log_switch.turn_off()
    await answer(await process.ask(PROMPT, "bob"))
    await world.close()
    said = lines.getvalue()
    assert "reply_parked" in said
    if isinstance(found.reply.end, Failed):
        assert "generation_broke" in said
    for secret in (PROMPT, REPLY, started.session_id, run.key, started.chat_id, "secret"):
        assert secret not in said


_CALL = re.compile(r"_?log(?:ger)?\.(debug|info|warning|error|exception|critical)\(\s*\"([^\"]+)\"")
_ROOT = Path(__file__).resolve().parents[2]


def written() -> set[tuple[str, str]]:
    """Return the name and the level of every line that the code can write."""
    return {
        (name, "error" if level == "exception" else level)
        for folder in ("layers/common/parley", "functions", "local")
        for path in (_ROOT / folder).rglob("*.py")
        for level, name in _CALL.findall(path.read_text("utf-8"))
    }


def documented() -> list[tuple[str, str, str]]:
    """Return the name, the level and the advice of every row of the table in docs/operations.md."""
    page = (_ROOT / "docs" / "operations.md").read_text("utf-8")
    table = page.partition("| line | level |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]
    return [(name.strip("`"), level, advice) for name, level, _, _, advice in rows]


def test_the_operations_page_has_every_line_with_its_level() -> None:
    rows = documented()
    assert {(name, level) for name, level, _ in rows} == written()
    assert len(rows) == len(written()), "a line has two rows"


def test_the_operations_page_says_what_to_do_about_every_line() -> None:
    assert not [name for name, _, advice in documented() if not advice]
