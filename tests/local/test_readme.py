"""The tables of settings in the README and in docs/configuration.md are those of the code."""

import re

import pytest

from local.readme import PAGES, ROOT, groups, groups_in, updated
from parley.settings import Settings
from tests.deploy.templates import load

CONFIGURATION = (ROOT / "docs/configuration.md").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_lists_the_settings_as_they_are(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    assert updated(text) == text, "run PYTHONPATH=layers/common:. .venv/bin/python -m local.readme"


def test_the_readme_lists_a_newcomer_s_settings_alone() -> None:
    assert groups_in((ROOT / "README.md").read_text("utf-8")) == ["first"]


def test_the_configuration_page_lists_every_setting_once() -> None:
    assert groups_in(CONFIGURATION) == groups()
    listed = re.findall(r"^\| `([A-Z_]+)`(?:\\\*)? \|", _between_markers(), re.MULTILINE)
    names = [item.metadata["name"] for item in Settings.__dataclass_fields__.values()]
    assert sorted(listed) == sorted(names)


def test_the_configuration_page_lists_the_parameters_that_are_settings() -> None:
    variables = load()["Globals"]["Function"]["Environment"]["Variables"]
    given = {name: value["Ref"] for name, value in variables.items() if set(value) == {"Ref"}}
    given.pop("KEYS_SECRET_ARN")  # refers to a resource of the stack
    # These come from the stack's own user pool, or else from parameters of the same name.
    names = [name for name in variables if name.startswith("JWT_")]
    given |= {name: name.title().replace("_", "") for name in names}
    table = CONFIGURATION.partition("| setting | parameter |\n")[2].partition("\n\n")[0]
    assert dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|$", table, re.MULTILINE)) == given


def _between_markers() -> str:
    return "".join(re.findall(r"<!-- settings: \w+ -->\n(.*?)<!-- /settings -->", CONFIGURATION, re.DOTALL))
