"""No log line holds what a user or a model wrote, a session id or a key, whatever goes wrong."""

import asyncio
import errno
import json
import logging
import logging.config
import os
import re
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import cast

import pytest
from uvicorn.config import LOGGING_CONFIG

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


@pytest.mark.parametrize(
    ("template", "values", "message"),
    [
        ("Started process [%d]", (42,), "Started process [42]"),
        ("%s of %d, %.1f%% of %r", (PROMPT, 3, 12.34, {"text": PROMPT}), "%s of 3, 12.3% of %r"),
        ("%(count)04d of %(what)s", ({"count": 7, "what": PROMPT},), "0007 of %(what)s"),
        ("%d and %d", (1,), "1 and %d"),
        ("%d is no number", (PROMPT,), "%d is no number"),
        ("%*d", (5, 3), "%*d"),
        ("one %d\ntwo %s", (1, PROMPT), "one 1"),
        ("%x is odd", (1.5,), "%x is odd"),
        ("100% sure", (), "100% sure"),
    ],
)
def test_another_library_s_line_has_its_numbers_and_no_other_value(
    template: str, values: tuple[object, ...], message: str
) -> None:
    record = logging.LogRecord("a.library", logging.WARNING, __file__, 1, template, values, None)
    line = JsonFormatter().format(record)
    assert json.loads(line)["message"] == message
    assert PROMPT not in line


def test_another_library_s_fields_and_exceptions_are_not_passed_on(lines: StringIO) -> None:
    other = logging.getLogger("a.library")
    other.error(ValueError(PROMPT))
    other.error(OSError(errno.EADDRINUSE, f"cannot bind for {PROMPT}"))
    other.error("it failed", extra={"request": PROMPT, "color_message": "it %d failed"})
    assert [set(entry) for entry in entries(lines)] == [{"timestamp", "level", "logger", "message"}] * 3
    assert [entry["message"] for entry in entries(lines)] == [
        "ValueError", f"OSError: {os.strerror(errno.EADDRINUSE)}", "it failed",
    ]  # fmt: skip
    assert PROMPT not in lines.getvalue()


def test_a_traceback_that_is_a_message_names_places_and_quotes_nothing(lines: StringIO) -> None:
    try:
        try:
            raise ValueError(f"cannot read\n{PROMPT}: {REPLY}")
        except ValueError as error:
            raise RuntimeError(REPLY) from error
    except RuntimeError:
        logging.getLogger("uvicorn.error").error(traceback.format_exc())
    [entry] = entries(lines)
    assert (entry["message"], entry["error"]) == ("Traceback (most recent call last):", "ValueError")
    [place] = cast("list[str]", entry["trace"])
    assert re.fullmatch(r"test_logs\.py:\d+ test_a_traceback_that_is_a_message\w+", place)
    assert PROMPT not in lines.getvalue()
    assert REPLY not in lines.getvalue()


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


@pytest.fixture
def servers_logs() -> Iterator[None]:
    """What uvicorn makes of the loggers before it imports an application; undone at the end."""
    named = [
        logging.getLogger(name) for name in (None, "parley", "uvicorn", "uvicorn.error", "uvicorn.access")
    ]
    before = [(found, found.handlers, found.level, found.propagate) for found in named]
    logging.config.dictConfig(LOGGING_CONFIG)
    yield
    for found, handlers, level, propagate in before:
        found.handlers, found.propagate = handlers, propagate
        found.setLevel(level)


@pytest.mark.usefixtures("servers_logs")
def test_configure_makes_json_of_uvicorn_s_lines(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("INFO")
    server = logging.getLogger("uvicorn.error")
    server.info("Started server process [%d]", 7, extra={"color_message": "Started [%d]"})
    server.info("Uvicorn running on %s://%s:%d (Press CTRL+C to quit)", "http", "127.0.0.1", 8000)
    server.error("Cancel %s running task(s), timeout graceful shutdown exceeded", 3)
    server.debug("nobody asked for this")
    logging.getLogger("uvicorn.access").info('%s - "%s"', "127.0.0.1", "GET /chat/stream?sessionId=s-1")
    said = capsys.readouterr()
    assert said.err == ""
    assert [(entry["level"], entry["message"]) for entry in map(json.loads, said.out.splitlines())] == [
        ("INFO", "Started server process [7]"),
        ("INFO", "Uvicorn running on http://127.0.0.1:8000 (Press CTRL+C to quit)"),
        ("ERROR", "Cancel 3 running task(s), timeout graceful shutdown exceeded"),
    ]
    assert "color_message" not in said.out


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


# Lines that several places write, each of which ends another piece of work.
_SEVERAL_WRITERS = {"flush_broke", "log_refused", "reply_ended", "request_broke"}


def calls() -> list[tuple[str, str]]:
    """Return the name and the level of every line that the code can write, once for each place."""
    return [
        (name, "error" if level == "exception" else level)
        for folder in ("layers/common/parley", "functions", "local")
        for path in (_ROOT / folder).rglob("*.py")
        for level, name in _CALL.findall(path.read_text("utf-8"))
    ]


def written() -> set[tuple[str, str]]:
    """Return the name and the level of every line that the code can write."""
    return set(calls())


def test_every_line_has_one_writer_or_a_reason_for_more() -> None:
    count = Counter(name for name, _ in calls())
    assert {name for name, places in count.items() if places > 1} == _SEVERAL_WRITERS


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
