"""Two builds in one run: they are measured by turns, and compared round by round."""

from pathlib import Path

import pytest

from bench.__main__ import main
from bench.beside import Line, compare, section
from bench.builds import Build, Revision
from bench.contenders import FURTHER_MODELS, MODELS
from bench.report import Column, Table, markdown, ms, whole
from bench.rounds import orders
from bench.sheet import Sheet
from bench.stores import catalogue

_PRESENT = Build("present", "**Parley**", Path("/present"))
_PAST = Build("past", "Parley at abc1234", Path("/past"))
_REVISION = Revision("abc1234" * 5, "abc1234", "A subject")
_TABLE = Table(
    "Title", "About.", (Column("x, ms", "part", "x", ms), Column("p99", "part", "y", whole, alone="x, p99"))
)


def _compared(sheet: Sheet) -> list[Line]:
    return compare(sheet, [_TABLE], _PRESENT, _PAST)


def test_two_builds_change_places_after_each_round() -> None:
    found = orders(["floor", "present", "past", "peer"], ["present", "past"], rounds=2, of_builds=2)
    assert found == [["floor", "present", "past", "peer"], ["floor", "past", "present", "peer"]]


@pytest.mark.parametrize(
    ("rounds", "of_builds", "total"), [(1, 4, 4), (3, 2, 4), (5, 4, 6), (2, 2, 2), (1, 7, 8)]
)
def test_two_builds_get_an_even_number_of_rounds_and_the_others_no_more(
    rounds: int, of_builds: int, total: int
) -> None:
    found = orders(["floor", "present", "past"], ["present", "past"], rounds=rounds, of_builds=of_builds)
    assert len(found) == total
    assert sum("floor" in each for each in found) == rounds
    assert sum(each.index("present") < each.index("past") for each in found) == total // 2


def test_a_build_alone_gets_the_rounds_of_the_others() -> None:
    assert orders(["floor", "present"], ["present"], rounds=3, of_builds=4) == [["floor", "present"]] * 3


def test_a_ratio_is_of_samples_of_the_same_round() -> None:
    sheet = Sheet()
    for present, past in ((2.0, 1.0), (30.0, 10.0), (5.0, None), (None, 7.0), (400.0, 100.0)):
        sheet.round += 1
        for build, value in ((_PRESENT, present), (_PAST, past)):
            if value is not None:
                sheet.add("part", build.label, "x", value)
    [line] = _compared(sheet)
    assert line == Line("part: x, ms", "17,500", "8,500", (2.0, 3.0, 4.0))


def test_what_is_not_above_zero_has_no_ratio() -> None:
    sheet = Sheet()
    sheet.add("part", _PRESENT.label, "y", 3.0, 0.0, -1.0)
    sheet.add("part", _PAST.label, "y", 0.0, 2.0, -2.0)
    [line] = _compared(sheet)
    assert line.ratios == ()
    assert "| part: x, p99 | 0 | 0 | – | – | – | 0 |" in section([line], _REVISION)


def test_parts_of_a_build_and_rows_that_are_no_builds_are_compared_too() -> None:
    sheet = Sheet()
    sheet.add("part", "**Parley**, its functions", "x", 3.0)
    sheet.add("part", "Parley at abc1234, its functions", "x", 2.0)
    sheet.add("part", "messages 1,000", "y", 8.0)
    sheet.add("part", "messages 1,000, Parley at abc1234", "y", 4.0)
    sheet.add("part", "floor", "x", 1.0)
    assert [(line.figure, line.ratios) for line in _compared(sheet)] == [
        ("part: x, ms, its functions", (1.5,)),
        ("part: x, p99, messages 1,000", (2.0,)),
    ]


def test_a_copied_sample_keeps_its_round() -> None:
    sheet = Sheet()
    for value in (1.0, 2.0):
        sheet.round += 1
        sheet.add("streams", _PRESENT.label, "cpu", value)
        sheet.add("streams", _PAST.label, "cpu", value)
    sheet.round += 1
    for build in (_PRESENT, _PAST):
        sheet.copy(("streams", build.label, "cpu"), ("part", build.label, "x"))
        sheet.copy(("streams", build.label, "nothing"), ("part", build.label, "y"))
    assert sheet.ratios("part", _PRESENT.label, _PAST.label, "x") == [1.0, 1.0]
    assert sheet.plain()["part"] == {build.label: {"x": [1.0, 2.0]} for build in (_PRESENT, _PAST)}


def test_the_section_has_a_line_for_each_figure_with_its_range() -> None:
    lines = [Line("part: x, ms", "2.00", "1.00", (1.0, 3.0, 1.25)), Line("part: y", "2.00", "1.00", (2.0,))]
    text = section(lines, _REVISION)
    assert text.startswith("## Beside abc1234\n")
    assert "“A subject”" in text
    assert "| part: x, ms | 2.00 | 1.00 | 1.25 | 1.00 | 3.00 | 3 |" in text
    assert "| part: y | 2.00 | 1.00 | 2.00 | – | – | 1 |" in text


def test_a_run_that_measured_nothing_of_both_says_so() -> None:
    assert "nothing was measured of both" in section([], _REVISION)


def test_the_section_stands_above_the_tables_and_the_old_build_in_them() -> None:
    sheet = Sheet()
    for row in ("messages 10", "messages 1,000", "messages 100"):
        sheet.add("part", f"{row}, {_PAST.label}", "x", 0.001)
        sheet.add("part", row, "x", 0.002)
    text = markdown(sheet, [_TABLE], [], section(_compared(sheet), _REVISION))
    assert text.index("## Beside abc1234") < text.index("## Title")
    rows = [line.split(" | ")[0] for line in text.partition("## Title")[2].splitlines() if " | " in line]
    assert rows[1:] == [
        f"| messages {count}{of}" for count in ("10", "100", "1,000") for of in ("", ", Parley at abc1234")
    ]


def test_an_unknown_revision_is_one_line_and_nothing_is_started(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--against", "no-such-revision"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "no-such-revision: git knows no such revision here.\n"


@pytest.mark.parametrize(
    ("words", "named"),
    [(["--against", "HEAD", "--skip", "parley"], "--skip"), (["--rounds", "9"], "--against")],
)
def test_arguments_that_contradict_each_other_are_an_error(
    capsys: pytest.CaptureFixture[str], words: list[str], named: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert named in capsys.readouterr().err.splitlines()[-1]


def test_every_build_is_told_of_the_models_by_a_catalogue_without_limits() -> None:
    tables = catalogue([*MODELS, *FURTHER_MODELS])
    assert tables["plans"] == [{"id": "pro", "title": "Pro", "default": True}]
    models = {each["id"]: each for each in tables["models"]}
    assert list(models) == [*MODELS, *FURTHER_MODELS]
    assert models["claude/full-20"]["provider"] == "anthropic"
    assert models["context/full-20"]["context_characters"] < models["full-20"]["context_characters"]
